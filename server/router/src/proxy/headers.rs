//! Which headers pass.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use uuid::Uuid;

/// Carries the id of a request through every log.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken over from a client.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Headers that concern one connection only (RFC 9110, 7.6.1).
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The client's id for its request, or a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(X_REQUEST_ID).filter(|id| {
        let is_plain = id.as_bytes().iter().all(u8::is_ascii_graphic);
        is_plain && !id.is_empty() && id.len() <= MAX_REQUEST_ID_BYTES
    });
    given.cloned().unwrap_or_else(|| {
        let id = Uuid::new_v4().to_string();
        HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("unknown"))
    })
}

/// What goes to the replica. The answer must come uncompressed, as its events are looked at.
pub(crate) fn for_upstream(mut headers: HeaderMap, request_id: &HeaderValue) -> HeaderMap {
    remove_hop_by_hop(&mut headers);
    for name in [
        header::ACCEPT_ENCODING,
        header::CONTENT_LENGTH,
        header::EXPECT,
        header::HOST,
    ] {
        headers.remove(name);
    }
    headers.insert(X_REQUEST_ID, request_id.clone());
    headers
}

/// What goes back to the client.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn headers_of_the_connection_stay_behind() {
        let client = headers(&[
            ("connection", "keep-alive, x-private"),
            ("x-private", "1"),
            ("te", "trailers"),
            ("accept-encoding", "gzip"),
            ("traceparent", "00-1"),
            ("content-type", "application/json"),
        ]);
        let id = HeaderValue::from_static("id");
        let sent = for_upstream(client, &id);
        let mut names: Vec<_> = sent.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "traceparent", "x-request-id"]);
    }

    #[test]
    fn a_clients_id_is_kept_unless_it_could_break_a_log() {
        let given = headers(&[("x-request-id", "abc-1")]);
        assert_eq!(request_id(&given), "abc-1");
        for bad in ["", "two words"] {
            let id = request_id(&headers(&[("x-request-id", bad)]));
            assert_eq!(id.len(), 36, "{bad:?}");
        }
    }
}
