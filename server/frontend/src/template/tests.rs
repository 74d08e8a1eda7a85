//! Prompts against those of Jinja2 as transformers sets it up (`tests/fixtures/templates/render.py`).

use std::{collections::BTreeMap, fs, path::PathBuf};

use ferrum_engine::{DefaultSampling, ModelCard, Task};
use minijinja::{Value, value::Serde};
use serde::Deserialize;
use serde_json::Map;

use super::{ChatTemplate, Conversation, time};

#[derive(Deserialize)]
struct Cases {
    templates: BTreeMap<String, Tokens>,
    conversations: Vec<Named>,
}

#[derive(Deserialize)]
struct Tokens {
    bos_token: String,
    eos_token: String,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    messages: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Expected {
    template: String,
    conversation: String,
    variables: Map<String, serde_json::Value>,
    prompt: Option<String>,
    error: Option<String>,
}

fn fixture(name: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/fixtures/templates", name]
        .iter()
        .collect();
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn compile(source: &str, bos_token: &str, eos_token: &str) -> Result<ChatTemplate, String> {
    let card = ModelCard {
        source: String::new(),
        served_names: Vec::new(),
        task: Task::Chat,
        architecture: String::new(),
        weights: String::new(),
        num_parameters: 0,
        device: String::new(),
        max_model_len: 0,
        vocab_size: 0,
        max_num_seqs: 0,
        block_size: 0,
        num_blocks: 0,
        embedding_dims: 0,
        chat_template: Some(source.to_owned()),
        bos_token: Some(bos_token.to_owned()),
        eos_token: Some(eos_token.to_owned()),
        stop_token_ids: Vec::new(),
        default_sampling: DefaultSampling::default(),
    };
    ChatTemplate::compile(&card).expect("the card has a template")
}

fn render(
    template: &ChatTemplate,
    messages: &[serde_json::Value],
    variables: &Map<String, serde_json::Value>,
) -> Result<String, String> {
    let messages: Vec<Value> = messages
        .iter()
        .map(|message| Value::from(Serde(message)))
        .collect();
    let mut variables = variables.clone();
    let add_generation_prompt = variables.remove("add_generation_prompt") == Some(true.into());
    template.render(&Conversation {
        messages: &messages,
        add_generation_prompt,
        variables: &variables,
    })
}

#[test]
fn prompts_are_those_of_transformers() {
    let cases: Cases = serde_json::from_str(&fixture("cases.json")).expect("cases");
    let expected: Vec<Expected> = serde_json::from_str(&fixture("expected.json")).expect("expected");
    let templates: BTreeMap<&str, ChatTemplate> = cases
        .templates
        .iter()
        .map(|(name, tokens)| {
            let source = fixture(&format!("{name}.jinja"));
            (
                name.as_str(),
                compile(&source, &tokens.bos_token, &tokens.eos_token).expect("compiles"),
            )
        })
        .collect();
    assert_eq!(
        expected.len(),
        cases.templates.len() * cases.conversations.len() * 3
    );
    for Expected {
        template,
        conversation,
        variables,
        prompt,
        error,
    } in expected
    {
        let named = cases
            .conversations
            .iter()
            .find(|named| named.name == conversation)
            .expect("a conversation");
        // The reference was made on a fixed day.
        let today = time::strftime("%d %b %Y", time::now());
        let expected = match (prompt, error) {
            (Some(prompt), _) => Ok(prompt.replace("26 Jul 2024", &today)),
            (None, error) => Err(error.expect("a prompt or an error")),
        };
        let found = render(&templates[template.as_str()], &named.messages, &variables);
        assert_eq!(found, expected, "{template}, {conversation}, {variables:?}");
    }
}

#[test]
fn a_template_that_does_not_end_is_stopped() {
    let source = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a * b }}{% endfor %}{% endfor %}";
    let template = compile(source, "", "").expect("compiles");
    assert_eq!(
        render(&template, &[], &Map::new()),
        Err("the chat template takes too long".to_owned())
    );
}

#[test]
fn a_template_that_is_no_template_says_where() {
    let error = compile("{% for %}", "", "").err().expect("refused");
    assert!(error.contains("line 1") || error.contains(":1"), "{error}");
}

#[test]
fn a_template_cannot_reach_files() {
    let template = compile("{% include '/etc/passwd' %}", "", "").expect("compiles");
    assert!(render(&template, &[], &Map::new()).is_err());
}
