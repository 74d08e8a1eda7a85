//! `ferrum run`: chat in the terminal.

use std::{
    io::{self, IsTerminal as _, Read as _, Write as _},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::Args;
use ferrum_api::chat::ChatMessage;
use ferrum_engine::Task;

use crate::{
    chat::{Conversation, Repl, Settings, explain_end, stream_answer},
    connect::{ConnectArgs, Connection},
    exit::{self, UsageError},
};

/// Chat with a model
///
/// Without a PROMPT it is a conversation with line editing and history; with one, or with text on stdin, it is one
/// answer. The model runs in this process, unless an endpoint is named.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  ferrum run smollm2:135m                                   a conversation; /help shows its commands
  ferrum run qwen3:0.6b \"Why is the sky blue?\"              one answer
  git diff | ferrum run qwen2.5:1.5b \"Summarise this diff\"  stdin follows the prompt
  ferrum run smollm2:135m --endpoint http://127.0.0.1:8080 --stats \"Hello\"
  ferrum run smollm2:135m --temperature 0 --seed 1 --max-tokens 50 \"A poem\"

In a conversation Ctrl-C stops the answer, Ctrl-D leaves.")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    connect: ConnectArgs,

    /// What to say; without it, a conversation
    prompt: Option<String>,

    /// System message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    /// Show time to first token, tokens a second and token counts after each answer
    #[arg(long)]
    stats: bool,

    #[command(flatten)]
    settings: Settings,
}

/// One answer, or a conversation.
pub(crate) async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let prompt = tokio::task::spawn_blocking(move || read_prompt(args.prompt)).await??;
    let Some(connection) = args.connect.open(Task::Chat).await? else {
        return Ok(ExitCode::from(exit::INTERRUPTED));
    };
    let conversation = Conversation {
        model: connection.model.clone(),
        system: args.system,
        settings: args.settings,
        messages: Vec::new(),
    };
    match prompt {
        Some(prompt) => answer_once(&connection, conversation, prompt, args.stats).await,
        None => {
            let _ = writeln!(
                io::stderr(),
                "{}: /help shows what can be typed, Ctrl-D leaves",
                connection.model
            );
            let repl = Repl {
                client: connection.client.clone(),
                conversation,
                show_stats: args.stats,
            };
            repl.run().await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The one-shot prompt: the argument, then stdin where it is no terminal.
fn read_prompt(argument: Option<String>) -> anyhow::Result<Option<String>> {
    let mut input = String::new();
    if !io::stdin().is_terminal() {
        io::stdin()
            .read_to_string(&mut input)
            .context("cannot read stdin as UTF-8 text")?;
        if argument.is_none() && input.trim().is_empty() {
            bail!(UsageError(
                "nothing to say: give a PROMPT, text on stdin, or run it on a terminal".to_owned()
            ));
        }
    }
    let input = input.trim_end();
    Ok(match argument {
        Some(argument) if input.is_empty() => Some(argument),
        Some(argument) => Some(format!("{argument}\n\n{input}")),
        None if input.is_empty() => None,
        None => Some(input.to_owned()),
    })
}

async fn answer_once(
    connection: &Connection,
    mut conversation: Conversation,
    prompt: String,
    show_stats: bool,
) -> anyhow::Result<ExitCode> {
    conversation.messages.push(ChatMessage::new("user", prompt));
    let mut out = io::stdout();
    let answer = stream_answer(&connection.client, &conversation.request(), &mut out).await?;
    if !answer.text.ends_with('\n') {
        writeln!(out)?;
    }
    explain_end(&answer);
    if show_stats {
        writeln!(io::stderr(), "{}", answer.stats.line())?;
    }
    Ok(if answer.stopped {
        ExitCode::from(exit::INTERRUPTED)
    } else {
        ExitCode::SUCCESS
    })
}
