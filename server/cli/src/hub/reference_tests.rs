use super::*;

fn hub(repo: &str, revision: Option<&str>, choice: Choice) -> ModelRef {
    ModelRef::Hub(HubRef {
        repo: repo.to_owned(),
        revision: revision.map(str::to_owned),
        choice,
    })
}

fn file(name: &str) -> Choice {
    Choice::File(name.to_owned())
}

#[test]
fn every_form_of_a_reference_is_read() {
    let q8 = Choice::Quantization("Q8_0".to_owned());
    for (text, expected) in [
        (
            "smollm2:135m",
            hub("HuggingFaceTB/SmolLM2-135M-Instruct", None, Choice::Auto),
        ),
        ("Qwen/Qwen3-0.6B", hub("Qwen/Qwen3-0.6B", None, Choice::Auto)),
        ("hf://o/n", hub("o/n", None, Choice::Auto)),
        ("hf://gpt2", hub("gpt2", None, Choice::Auto)),
        ("o/n@main", hub("o/n", None, Choice::Auto)),
        ("hf://o/n@v1.0", hub("o/n", Some("v1.0"), Choice::Auto)),
        ("hf://o/n@refs/pr/3", hub("o/n", Some("refs/pr/3"), Choice::Auto)),
        (
            "hf://o/n@refs/pr/3/a.gguf",
            hub("o/n", Some("refs/pr/3"), file("a.gguf")),
        ),
        ("hf://o/n@a%2Fb", hub("o/n", Some("a/b"), Choice::Auto)),
        ("hf://o/n@v1/d/x.gguf", hub("o/n", Some("v1"), file("d/x.gguf"))),
        ("o/n/x.gguf", hub("o/n", None, file("x.gguf"))),
        ("o/n:Q8_0", hub("o/n", None, q8.clone())),
        ("hf://o/n@v1:Q8_0", hub("o/n", Some("v1"), q8)),
        ("https://huggingface.co/o/n", hub("o/n", None, Choice::Auto)),
        (
            "https://huggingface.co/o/n/tree/v1",
            hub("o/n", Some("v1"), Choice::Auto),
        ),
        (
            "https://huggingface.co/o/n/blob/main/x.gguf",
            hub("o/n", None, file("x.gguf")),
        ),
        ("./dir", ModelRef::Local("./dir".into())),
        (".", ModelRef::Local(".".into())),
        ("file:///a/b", ModelRef::Local("/a/b".into())),
        ("x.gguf", ModelRef::Local("x.gguf".into())),
    ] {
        assert_eq!(text.parse::<ModelRef>().as_ref(), Ok(&expected), "{text}");
    }
}

#[test]
fn what_is_displayed_parses_to_the_same_reference() {
    for text in [
        "hf://o/n",
        "hf://o/n@a%2Fb",
        "hf://o/n@refs/pr/1/x.gguf",
        "hf://o/n@v1:Q4_K_M",
        "file:///a",
    ] {
        let parsed: ModelRef = text.parse().expect("parses");
        assert_eq!(parsed.to_string(), text);
        assert_eq!(parsed.to_string().parse(), Ok(parsed));
    }
}

#[test]
fn what_names_no_model_is_refused_with_the_reason() {
    for (text, part) in [
        ("", "expected a short name"),
        ("smolm2:135m", "did you mean smollm2:135m"),
        ("smollm2", "did you mean smollm2:135m, smollm2:360m"),
        ("zzz", "or a short name (llama3.1:8b"),
        ("a/b@", "revision after `@` is empty"),
        ("a/b@../../etc", "is not a branch"),
        ("a/..", "expected org/name"),
        ("a/b c", "expected org/name"),
        ("https://example.com/x.bin", "expected https://host/path.gguf"),
        (
            "https://user@example.com/x.gguf",
            "expected https://host/path.gguf",
        ),
        ("https://example.com/x.gguf?key=1", "without a query"),
        ("http://example.com/x.gguf", "expected https://, as http://"),
        (
            "http://127.0.0.1@example.com/x.gguf",
            "expected https://, as http://",
        ),
        ("pvc://claim/x", "expected https://host/path.gguf"),
        ("a/b/model.safetensors", "cannot be served alone"),
        ("a/b:Q8_0@main/x.gguf", "both a file and a quantization"),
    ] {
        let error = text.parse::<ModelRef>().expect_err(text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn a_file_of_another_server_is_named_by_its_address() {
    for text in [
        "https://example.com:8443/a/b.gguf",
        "http://127.0.0.1:9000/b.gguf",
    ] {
        let Ok(ModelRef::Web(web)) = text.parse() else {
            panic!("{text}")
        };
        assert_eq!((web.url(), web.title()), (text, "b"));
    }
}

#[test]
fn a_title_is_the_short_name_where_there_is_one() {
    let title = |text: &str| match text.parse() {
        Ok(ModelRef::Hub(hub)) => hub.title(),
        other => panic!("{other:?}"),
    };
    assert_eq!(title("Qwen/Qwen3-0.6B"), "qwen3:0.6b");
    assert_eq!(title("o/n@v1"), "o/n@v1");
}
