//! `ferrum run`: one answer, a pipe, a conversation on a terminal.

mod support;

use std::{
    io::Write as _,
    path::Path,
    process::{Output, Stdio},
};

use support::{
    checkpoint::{decoder, tiny_llama},
    ferrum, output,
    server::Server,
    stderr, stdout,
    terminal::Terminal,
};

fn piped(mut command: std::process::Command, input: &str) -> Output {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary starts");
    child
        .stdin
        .take()
        .expect("is piped")
        .write_all(input.as_bytes())
        .expect("it reads");
    child.wait_with_output().expect("it ends")
}

#[test]
fn a_prompt_gives_one_answer_and_its_figures() {
    let home = tempfile::tempdir().expect("a folder");
    let server = Server::sim(home.path(), &[]);
    let mut command = ferrum(home.path());
    command.args([
        "run",
        "any",
        "Hello",
        "--endpoint",
        &server.url,
        "--stats",
        "--max-tokens",
        "12",
        "--seed",
        "1",
    ]);
    let result = output(&mut command);
    assert!(result.status.success(), "{}", stderr(&result));
    assert!(!stdout(&result).trim().is_empty());
    assert!(stderr(&result).contains("12 tokens, "), "{}", stderr(&result));
    assert_eq!(
        stdout(&output(&mut command)),
        stdout(&result),
        "the same prompt gives the same answer"
    );
    let other = output(command.arg("--system").arg("Be brief."));
    assert_ne!(
        stdout(&other),
        stdout(&result),
        "the system message is part of the prompt"
    );
}

#[test]
fn stdin_follows_the_prompt() {
    let home = tempfile::tempdir().expect("a folder");
    let server = Server::sim(home.path(), &[]);
    let run = |args: &[&str]| {
        let mut command = ferrum(home.path());
        command
            .args([
                "run",
                "any",
                "--endpoint",
                &server.url,
                "--max-tokens",
                "8",
                "--seed",
                "1",
            ])
            .args(args);
        command
    };
    let joined = piped(run(&["Sum this up:"]), "a file\n");
    assert!(joined.status.success(), "{}", stderr(&joined));
    assert_eq!(
        stdout(&joined),
        stdout(&output(&mut run(&["Sum this up:\n\na file"])))
    );
    assert_eq!(
        stdout(&piped(run(&[]), "Hello\n")),
        stdout(&output(&mut run(&["Hello"])))
    );
    assert_eq!(piped(run(&[]), "\n").status.code(), Some(2));
}

#[test]
fn what_the_endpoint_refuses_is_told() {
    let home = tempfile::tempdir().expect("a folder");
    let server = Server::sim(home.path(), &[]);
    let unknown = output(ferrum(home.path()).args(["run", "other", "Hi", "--endpoint", &server.url]));
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        stderr(&unknown).contains("no model `other`"),
        "{}",
        stderr(&unknown)
    );
    let hot = output(ferrum(home.path()).args([
        "run",
        "any",
        "Hi",
        "--temperature",
        "9",
        "--endpoint",
        &server.url,
    ]));
    assert!(stderr(&hot).contains("temperature"), "{}", stderr(&hot));
    let nobody = output(ferrum(home.path()).args(["run", "any", "Hi", "--endpoint", "http://127.0.0.1:9"]));
    assert!(
        stderr(&nobody).contains("Connection refused"),
        "{}",
        stderr(&nobody)
    );
}

/// What a checkpoint answers in the process itself, and its figures.
fn greet(home: &Path, model: &Path, output_layer: &str) -> Output {
    let mut command = ferrum(home);
    command
        .arg("run")
        .arg(model)
        .args(["Hi", "--temperature", "0", "--max-tokens", "6", "--stats"]);
    output(command.args(["--threads", "1", "--output-layer", output_layer]))
}

#[test]
fn a_model_runs_in_the_process_itself() {
    let home = tempfile::tempdir().expect("a folder");
    let model = tiny_llama(home.path());
    let run = || greet(home.path(), &model, "auto");
    let first = run();
    assert!(first.status.success(), "{}", stderr(&first));
    assert!(stderr(&first).contains("6 tokens, "), "{}", stderr(&first));
    assert_eq!(stdout(&run()), stdout(&first));
}

#[test]
fn a_checkpoint_of_gptq_runs_and_so_does_an_output_layer_at_eight_bits() {
    let home = tempfile::tempdir().expect("a folder");
    for (name, output_layer) in [
        ("tiny-llama-gptq-sym-g128", "auto"),
        ("tiny-llama-gptq-asym-descact-g128", "int8"),
        ("tiny-qwen2-gptq-sym-g32", "int8"),
    ] {
        let model = decoder(home.path(), name);
        let run = || greet(home.path(), &model, output_layer);
        let first = run();
        assert!(first.status.success(), "{name}: {}", stderr(&first));
        assert!(stderr(&first).contains(" tokens, "), "{name}: {}", stderr(&first));
        assert_eq!(stdout(&run()), stdout(&first), "{name}");
    }
}

#[test]
fn a_model_for_another_task_is_refused_with_its_command() {
    let home = tempfile::tempdir().expect("a folder");
    let result = output(
        ferrum(home.path())
            .arg("run")
            .arg(support::checkpoint::tiny_bert())
            .arg("Hi"),
    );
    assert_eq!(result.status.code(), Some(2));
    assert!(stderr(&result).contains("ferrum embed"), "{}", stderr(&result));
}

#[test]
fn in_a_conversation_ctrl_c_stops_the_answer_and_not_the_program() {
    let home = tempfile::tempdir().expect("a folder");
    // Ten seconds of answer: stopping it is much earlier than its end.
    let server = Server::sim(
        home.path(),
        &["--sim-tpot-ms", "20", "--sim-answer-tokens", "500"],
    );
    let mut command = ferrum(home.path());
    command.args(["run", "any", "--endpoint", &server.url, "--stats"]);
    let mut terminal = Terminal::start(&command);
    terminal.expect(">>> ");
    terminal.type_in("Tell me a long story\r");
    terminal.expect("\n"); // the end of the line that was typed
    terminal.expect(" "); // a first word
    terminal.type_in("\x03");
    terminal.expect("(stopped)");
    terminal.expect("tokens, ");
    terminal.expect(">>> ");

    terminal.type_in("\x03");
    terminal.expect("Ctrl-D or /exit leaves.");
    terminal.expect(">>> ");
    terminal.type_in("/set max_tokens 3\r");
    terminal.expect(">>> ");
    terminal.type_in("one\\\rtwo\r");
    terminal.expect("cut off");
    terminal.expect("3 tokens, ");
    terminal.expect(">>> ");
    terminal.type_in("/set\r");
    terminal.expect("max_tokens = 3");
    terminal.expect(">>> ");
    terminal.type_in("/rest\r");
    terminal.expect("did you mean /reset?");
    terminal.expect(">>> ");
    terminal.type_in("\x04");
    assert_eq!(terminal.exit_code(), Some(0));
    let history = std::fs::read_to_string(home.path().join("state/ferrum/history")).expect("is kept");
    assert!(history.contains("Tell me a long story"), "{history}");
}
