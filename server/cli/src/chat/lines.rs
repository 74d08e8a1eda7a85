//! The prompt: line editing, history, completion. The editor blocks, so it has a thread of its own.

use std::{fs, path::PathBuf, thread};

use anyhow::Context as _;
use rustyline::{
    CompletionType, Config, Editor, Helper,
    completion::Completer,
    error::ReadlineError,
    highlight::Highlighter,
    hint::Hinter,
    history::FileHistory,
    validate::{ValidationContext, ValidationResult, Validator},
};
use tokio::sync::{mpsc, oneshot};

use super::{command, settings};

const HISTORY_LINES: usize = 2000;

/// What came from the prompt.
#[derive(Debug)]
pub(crate) enum Line {
    /// Ctrl-D on an empty line.
    End,
    /// Ctrl-C.
    Interrupted,
    /// A message, perhaps of several lines.
    Text(String),
}

/// The prompt, as the async side sees it.
pub(crate) struct Lines {
    wanted: mpsc::Sender<oneshot::Sender<Result<Line, ReadlineError>>>,
}

impl Lines {
    /// Starts the editor.
    ///
    /// # Errors
    /// When the terminal cannot be edited on.
    pub(crate) fn start(prompt: &'static str) -> anyhow::Result<Self> {
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .max_history_size(HISTORY_LINES)?
            .auto_add_history(true)
            .history_ignore_space(true)
            .build();
        let mut editor = Editor::<ChatHelper, FileHistory>::with_config(config)?;
        editor.set_helper(Some(ChatHelper));
        let (wanted, requests) = mpsc::channel(1);
        thread::Builder::new()
            .name("prompt".to_owned())
            .spawn(move || serve(editor, prompt, requests))
            .context("cannot start the prompt")?;
        Ok(Self { wanted })
    }

    /// The next line.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(crate) async fn next(&self) -> anyhow::Result<Line> {
        let (reply, line) = oneshot::channel();
        self.wanted.send(reply).await.context("the prompt has ended")?;
        Ok(line.await.context("the prompt has ended")??)
    }
}

fn serve(
    mut editor: Editor<ChatHelper, FileHistory>,
    prompt: &str,
    mut requests: mpsc::Receiver<oneshot::Sender<Result<Line, ReadlineError>>>,
) {
    let history = history_file();
    if let Some(history) = &history {
        let _ = editor.load_history(history); // there is none at first
    }
    while let Some(reply) = requests.blocking_recv() {
        let line = match editor.readline(prompt) {
            Ok(text) => Ok(Line::Text(text)),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
            Err(error) => Err(error),
        };
        if let (Ok(Line::Text(_)), Some(history)) = (&line, &history)
            && let Err(error) = editor.append_history(history)
        {
            tracing::debug!(%error, "cannot keep the history");
        }
        if reply.send(line).is_err() {
            return;
        }
    }
}

/// `$XDG_STATE_HOME/ferrum/history`.
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    let folder = state
        .or_else(|| Some(std::env::home_dir()?.join(".local/state")))?
        .join("ferrum");
    fs::create_dir_all(&folder).ok()?;
    Some(folder.join("history"))
}

/// Knows when a line goes on, and completes commands.
struct ChatHelper;

impl Helper for ChatHelper {}

impl Highlighter for ChatHelper {}

impl Hinter for ChatHelper {
    type Hint = String;
}

impl Validator for ChatHelper {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if command::is_continued(context.input()) {
            ValidationResult::Incomplete
        } else {
            ValidationResult::Valid(None)
        })
    }
}

impl Completer for ChatHelper {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..position];
        if let Some(name) = typed.strip_prefix("/set ") {
            let names = settings::NAMES.iter().filter(|known| known.starts_with(name));
            return Ok(("/set ".len(), names.map(|name| format!("{name} ")).collect()));
        }
        let commands = command::COMMANDS.iter().map(|(command, _, _)| *command);
        let matching = commands.filter(|command| typed.starts_with('/') && command.starts_with(typed));
        Ok((0, matching.map(str::to_owned).collect()))
    }
}
