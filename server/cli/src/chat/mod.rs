//! Chat in the terminal: `ferrum run`.

mod answer;
mod command;
mod lines;
mod repl;
mod settings;

pub(crate) use self::{
    answer::{explain_end, stream_answer},
    repl::{Conversation, Repl},
    settings::Settings,
};
