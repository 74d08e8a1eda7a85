//! Server-sent events: bytes in, the `data` of events out.

/// An event longer than this is not one of ours.
const MAX_EVENT_BYTES: usize = 4 << 20;

/// Splits a stream of bytes, wherever the network cuts it, into events.
#[derive(Debug, Default)]
pub(crate) struct SseParser {
    /// What came after the last whole line.
    rest: Vec<u8>,
    /// `data` lines of the event that is not finished yet.
    data: Vec<u8>,
}

/// An event without an end.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {MAX_EVENT_BYTES} bytes")]
pub(crate) struct EventTooLong;

impl SseParser {
    /// Takes what arrived; returns the `data` of each event that is complete now. Comments and other fields are
    /// dropped.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, EventTooLong> {
        let mut events = Vec::new();
        let mut start = 0;
        while let Some(length) = bytes[start..].iter().position(|byte| *byte == b'\n') {
            let mut line = std::mem::take(&mut self.rest);
            line.extend_from_slice(&bytes[start..start + length]);
            start += length + 1;
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            if line.is_empty() {
                if !self.data.is_empty() {
                    events.push(std::mem::take(&mut self.data));
                }
            } else if let Some(value) = line.strip_prefix(b"data:") {
                if !self.data.is_empty() {
                    self.data.push(b'\n');
                }
                self.data
                    .extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
            }
        }
        self.rest.extend_from_slice(&bytes[start..]);
        if self.rest.len() + self.data.len() > MAX_EVENT_BYTES {
            return Err(EventTooLong);
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b": hello\n\ndata: {\"a\":1}\n\nevent: x\r\ndata: one\r\ndata:two\r\n\r\ndata: [DONE]\n\n";

    #[test]
    fn events_are_the_same_however_the_network_cuts_them() {
        let expected = [&b"{\"a\":1}"[..], b"one\ntwo", b"[DONE]"];
        for size in 1..STREAM.len() {
            let mut parser = SseParser::default();
            let pieces = STREAM
                .chunks(size)
                .map(|piece| parser.push(piece).expect("short"));
            assert_eq!(
                pieces.flatten().collect::<Vec<_>>(),
                expected,
                "pieces of {size} bytes"
            );
        }
    }

    #[test]
    fn an_event_without_an_end_is_refused() {
        let mut parser = SseParser::default();
        let piece = vec![b'x'; MAX_EVENT_BYTES / 2 + 1];
        assert_eq!(parser.push(&piece), Ok(Vec::new()));
        assert_eq!(parser.push(&piece), Err(EventTooLong));
    }
}
