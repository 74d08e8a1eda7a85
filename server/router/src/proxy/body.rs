//! Reads a request's body, once.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ferrum_api::{ApiError, ErrorKind};
use http::{HeaderMap, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

/// A body over the limit is read and thrown away up to so many times the limit: a client that still writes would not
/// read the refusal.
const DISCARD_FACTOR: usize = 8;

/// The whole body.
///
/// # Errors
/// 413 over `limit` bytes, 400 when it breaks off or takes longer than `time`.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Incoming,
    limit: usize,
    time: Duration,
) -> Result<Bytes, ApiError> {
    if body.size_hint().lower() > limit as u64 && headers.contains_key(header::EXPECT) {
        return Err(too_large(limit));
    }
    match timeout(time, collect(body, limit)).await {
        Ok(collected) => collected,
        Err(_) => {
            let message = format!("the body did not arrive within {} s", time.as_secs());
            Err(ApiError::new(ErrorKind::InvalidRequest, message))
        }
    }
}

async fn collect(mut body: Incoming, limit: usize) -> Result<Bytes, ApiError> {
    let announced = body.size_hint().exact().unwrap_or(0) as usize;
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    let mut total = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            ApiError::new(ErrorKind::InvalidRequest, format!("the body broke off: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        total += data.len();
        if total > limit.saturating_mul(DISCARD_FACTOR) {
            break;
        }
        if total > limit {
            (first, all) = (Bytes::new(), BytesMut::new());
        } else if total == data.len() {
            first = data; // most bodies come in one piece: no copy
        } else {
            if all.is_empty() {
                all.reserve(announced.min(limit).max(total));
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&data);
        }
    }
    if total > limit {
        Err(too_large(limit))
    } else if all.is_empty() {
        Ok(first)
    } else {
        Ok(all.freeze())
    }
}

fn too_large(limit: usize) -> ApiError {
    let message = format!("the body is larger than {limit} bytes, the most that is accepted");
    ApiError::new(ErrorKind::BodyTooLarge, message)
}
