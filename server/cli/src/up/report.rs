//! What is said when everything is ready or has failed.

use ferrum_engine::Task;

use super::{control::Summary, state_dir::StateDir};

/// The models, the address, and a command that works.
pub(crate) fn lines(summary: &Summary, state: &StateDir) -> Vec<String> {
    let mut lines = Vec::new();
    for model in &summary.models {
        let name = if model.name == model.served_name {
            model.name.clone()
        } else {
            format!("{} (as {})", model.name, model.served_name)
        };
        let failure = model
            .failure
            .as_ref()
            .map(|failure| format!(": {failure}"))
            .unwrap_or_default();
        lines.push(format!(
            "  {name}: {}, {} of {} ready{failure}",
            model.task, model.ready, model.wanted
        ));
    }
    lines.push(format!("Endpoint: {}/v1", summary.url));
    lines.extend(curl(summary));
    lines.push(format!("State and logs: {}", state.root().display()));
    lines
}

/// An address that a client on this machine can use: `0.0.0.0` is where one listens, not where one calls.
pub(crate) fn reachable(url: &str) -> String {
    url.replace("//0.0.0.0:", "//127.0.0.1:")
        .replace("//[::]:", "//[::1]:")
}

/// A request to the first model that answers.
fn curl(summary: &Summary) -> Option<String> {
    let model = summary.models.iter().find(|model| model.ready > 0)?;
    let name = &model.served_name;
    let (path, body) = match model.task {
        Task::Chat => (
            "chat/completions",
            format!(
                r#"{{"model": "{name}", "stream": true, "messages": [{{"role": "user", "content": "Hello!"}}]}}"#
            ),
        ),
        Task::Embedding => (
            "embeddings",
            format!(r#"{{"model": "{name}", "input": "Hello!"}}"#),
        ),
    };
    let key = if summary.needs_key {
        " -H \"authorization: Bearer $FERRUM_API_KEY\""
    } else {
        ""
    };
    Some(format!(
        "Try: curl -N {}/v1/{path} -H 'content-type: application/json'{key} -d '{body}'",
        summary.url
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::control::ModelSummary;

    #[test]
    fn the_command_that_is_told_fits_the_first_model_that_answers() {
        let model = |name: &str, task, ready| ModelSummary {
            name: name.to_owned(),
            served_name: name.to_owned(),
            task,
            ready,
            wanted: 1,
            failure: (ready == 0).then(|| "no such model".to_owned()),
        };
        let summary = Summary {
            url: reachable("http://0.0.0.0:80"),
            needs_key: true,
            models: vec![model("a", Task::Chat, 0), model("b", Task::Embedding, 1)],
        };
        let state = StateDir::new(Some("/s".into())).expect("absolute");
        let told = lines(&summary, &state);
        assert_eq!(told[0], "  a: chat, 0 of 1 ready: no such model");
        assert_eq!(
            told[3],
            "Try: curl -N http://127.0.0.1:80/v1/embeddings -H 'content-type: application/json' \
             -H \"authorization: Bearer $FERRUM_API_KEY\" -d '{\"model\": \"b\", \"input\": \"Hello!\"}'"
        );
    }
}
