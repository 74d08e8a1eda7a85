//! What a line at the prompt means.

use super::settings;

/// A line, understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// Leave.
    Exit,
    /// Show what can be typed.
    Help,
    /// Nothing was typed.
    Nothing,
    /// Forget the conversation.
    Reset,
    /// Change a setting; without a name, show all.
    Set(Option<(String, String)>),
    /// Show figures of the last answer.
    Stats,
    /// Set the system message; empty takes it away.
    System(String),
    /// Say this to the model.
    Text(String),
    /// A command that is none; with what may have been meant.
    Unknown(String),
}

/// The commands, for help and completion.
pub(crate) const COMMANDS: [(&str, &str, &str); 6] = [
    ("/help", "", "this text"),
    ("/reset", "", "forget the conversation"),
    (
        "/system",
        " TEXT",
        "set the system message; without TEXT there is none",
    ),
    ("/set", " NAME VALUE", "change a setting; without NAME show all"),
    ("/stats", "", "figures of the last answer"),
    ("/exit", "", "leave (also Ctrl-D)"),
];

impl Input {
    /// Understands what was typed. A text that begins with a slash and is no command can be said after a space.
    pub(crate) fn parse(line: &str) -> Self {
        let trimmed = line.trim();
        if trimmed.is_empty() {
            return Self::Nothing;
        }
        if !line.starts_with('/') {
            return Self::Text(join_continued(line).trim().to_owned());
        }
        let (command, rest) = trimmed.split_once(char::is_whitespace).unwrap_or((trimmed, ""));
        let rest = rest.trim();
        match command {
            "/?" | "/help" => Self::Help,
            "/bye" | "/exit" | "/quit" => Self::Exit,
            "/clear" | "/reset" => Self::Reset,
            "/set" => parse_set(rest),
            "/stats" => Self::Stats,
            "/system" => Self::System(join_continued(rest)),
            _ => Self::Unknown(unknown(command)),
        }
    }
}

/// Whether more belongs to `line`: it ends in a backslash.
pub(crate) fn is_continued(line: &str) -> bool {
    let slashes = line.bytes().rev().take_while(|byte| *byte == b'\\').count();
    slashes % 2 == 1
}

/// The text of `/help`.
pub(crate) fn help() -> String {
    let mut lines: Vec<_> = COMMANDS
        .iter()
        .map(|(command, argument, meaning)| format!("  {:<18} {meaning}", format!("{command}{argument}")))
        .collect();
    lines.push(format!("  settings: {}", settings::NAMES.join(", ")));
    lines.push("  A line that ends in \\ goes on in the next one; a pasted text is one message.".to_owned());
    lines.push("  Ctrl-C stops an answer.".to_owned());
    lines.join("\n")
}

fn join_continued(text: &str) -> String {
    text.replace("\\\n", "\n")
}

fn parse_set(rest: &str) -> Input {
    let mut words = rest.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (None, ..) => Input::Set(None),
        (Some(name), Some(value), None) => {
            let name = name.replace('-', "_");
            Input::Set(Some((name, value.trim_start_matches('=').to_owned())))
        }
        _ => Input::Unknown(format!(
            "expected /set NAME VALUE, with NAME one of {}",
            settings::NAMES.join(", ")
        )),
    }
}

fn unknown(command: &str) -> String {
    let near = COMMANDS.iter().max_by(|a, b| {
        let likeness = |entry: &(&str, &str, &str)| strsim::jaro_winkler(command, entry.0);
        likeness(a).total_cmp(&likeness(b))
    });
    let near = near.map_or("/help", |entry| entry.0);
    format!(
        "unknown command {command}: did you mean {near}? (/help shows all; a space before / says it to the model)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_command_or_a_text() {
        let text = |text: &str| Input::Text(text.to_owned());
        for (line, expected) in [
            ("", Input::Nothing),
            ("  \n", Input::Nothing),
            ("Hello\nthere", text("Hello\nthere")),
            ("one\\\ntwo", text("one\ntwo")),
            (" /etc/passwd is a file", text("/etc/passwd is a file")),
            ("/help", Input::Help),
            ("/exit ", Input::Exit),
            ("/system Be brief.", Input::System("Be brief.".to_owned())),
            ("/system", Input::System(String::new())),
            ("/set", Input::Set(None)),
            (
                "/set top-p 0.5",
                Input::Set(Some(("top_p".to_owned(), "0.5".to_owned()))),
            ),
        ] {
            assert_eq!(Input::parse(line), expected, "{line}");
        }
    }

    #[test]
    fn a_command_that_is_none_offers_the_nearest() {
        let Input::Unknown(message) = Input::parse("/rest") else {
            panic!("not a command")
        };
        assert!(message.contains("did you mean /reset"), "{message}");
    }

    #[test]
    fn a_backslash_at_the_end_asks_for_more() {
        assert!(is_continued("one\\"));
        assert!(!is_continued("a path C:\\\\"));
        assert!(!is_continued("one\\ "));
    }
}
