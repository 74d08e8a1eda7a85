use super::*;

fn push(splitter: &mut EventSplitter, text: &str) -> String {
    String::from_utf8(splitter.push(Bytes::copy_from_slice(text.as_bytes())).to_vec()).expect("text")
}

#[test]
fn whole_events_pass_at_once_and_half_an_event_waits_for_its_rest() {
    let mut splitter = EventSplitter::default();
    assert_eq!(push(&mut splitter, "data: 1\n\n"), "data: 1\n\n");
    assert_eq!(push(&mut splitter, "data: 2\n\ndata: 3"), "data: 2\n\n");
    assert_eq!(push(&mut splitter, "4\n"), "");
    assert_eq!(
        push(&mut splitter, "\ndata: 5\r\n\r\nda"),
        "data: 34\n\ndata: 5\r\n\r\n"
    );
    assert_eq!(push(&mut splitter, "ta: 6\n\n"), "data: 6\n\n");
}

#[test]
fn an_event_of_any_cut_comes_out_whole() {
    let text = "data: {\"a\":1}\n\n: comment\n\ndata: [DONE]\n\n";
    for cut in 0..text.len() {
        let mut splitter = EventSplitter::default();
        let joined = push(&mut splitter, &text[..cut]) + &push(&mut splitter, &text[cut..]);
        assert_eq!(joined, text, "cut at {cut}");
    }
}

#[test]
fn an_endless_event_is_not_held_without_bound() {
    let mut splitter = EventSplitter::default();
    let piece = "x".repeat(MAX_EVENT_BYTES / 2 + 1);
    assert_eq!(push(&mut splitter, &piece), "");
    assert_eq!(push(&mut splitter, &piece).len(), 2 * piece.len());
}

#[test]
fn the_last_event_tells_whether_a_stream_is_complete() {
    assert_eq!(last_event(b"data: 1\n\ndata: [DONE]\n\n"), b"data: [DONE]");
    assert_eq!(
        last_event(b"data: 1\r\n\r\ndata: [DONE]\r\n\r\n"),
        b"data: [DONE]"
    );
    assert_eq!(last_event(b"data: [DONE]\n\n"), b"data: [DONE]");
    assert_eq!(last_event(b""), b"");
}

#[test]
fn comments_are_no_content() {
    assert!(!has_content(b": keep\n\n:\r\n\r\n"));
    assert!(has_content(b": keep\n\ndata: 1\n\n"));
    assert_eq!(count_events(b": keep\n\ndata: 1\n\ndata: 2\n\n"), 2);
}

#[test]
fn the_error_event_has_the_shape_of_an_error_body() {
    let event = error_event("gone");
    let json = event.strip_prefix(b"data: ").expect("data");
    let body: serde_json::Value = serde_json::from_slice(json).expect("JSON");
    assert_eq!(body["error"]["code"], "upstream_failed");
    assert_eq!(body["error"]["type"], "server_error");
}
