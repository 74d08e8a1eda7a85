//! `ferrum embed`: vectors of texts.

use std::{
    fs,
    io::{self, IsTerminal as _, Read as _, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use ferrum_api::{
    Input,
    embeddings::{EmbeddingRequest, EmbeddingVector},
};
use ferrum_engine::Task;
use serde_json::json;

use crate::{
    connect::{ConnectArgs, Connection},
    exit::{self, UsageError},
    text::plain_table,
};

/// Texts of one request.
const BATCH: usize = 256;
/// Characters of a text in a table.
const SHOWN_CHARS: usize = 40;

/// Compute embeddings of texts
///
/// The model runs in this process, unless an endpoint is named.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  ferrum embed minilm:l6 \"a text\" \"another\"           one JSON object a line
  ferrum embed minilm:l6 --similarity \"a cat\" \"a dog\" \"a bank\"
  ferrum embed minilm:l6 --file texts.txt > vectors.jsonl
  cat texts.txt | ferrum embed minilm:l6 -            a text a line
  ferrum embed minilm:l6 --endpoint http://127.0.0.1:8080 --dimensions 128 \"a text\"")]
pub(crate) struct EmbedArgs {
    #[command(flatten)]
    connect: ConnectArgs,

    /// Texts; `-` reads stdin, a text a line
    #[arg(value_name = "TEXT", required_unless_present = "file")]
    texts: Vec<String>,

    /// Read texts from this file, one a line
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,

    /// How the result looks
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,

    /// Print the cosine of every pair of texts (as a table, unless --format json)
    #[arg(long)]
    similarity: bool,

    /// Keep the first N elements and normalise again
    #[arg(long, value_name = "N")]
    dimensions: Option<i64>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One object.
    Json,
    /// One object a text.
    Jsonl,
    /// For a person.
    Table,
}

/// Embeds and prints.
pub(crate) async fn run(args: EmbedArgs) -> anyhow::Result<ExitCode> {
    let (given, file) = (args.texts, args.file);
    let texts = tokio::task::spawn_blocking(move || read_texts(&given, file)).await??;
    let Some(connection) = args.connect.open(Task::Embedding).await? else {
        return Ok(ExitCode::from(exit::INTERRUPTED));
    };
    let (vectors, tokens) = embed(&connection, &texts, args.dimensions).await?;
    let mut out = io::stdout().lock();
    match (args.similarity, args.format) {
        (true, Format::Json) => print_json(
            &mut out,
            &json!({ "texts": texts, "similarity": cosines(&vectors) }),
        )?,
        (true, _) => print_similarity(&mut out, &texts, &cosines(&vectors))?,
        (false, Format::Json) => {
            let data: Vec<_> = (0..texts.len())
                .map(|index| record(index, &texts, &vectors))
                .collect();
            print_json(
                &mut out,
                &json!({ "model": connection.model, "data": data, "prompt_tokens": tokens }),
            )?;
        }
        (false, Format::Jsonl) => {
            for index in 0..texts.len() {
                writeln!(out, "{}", record(index, &texts, &vectors))?;
            }
        }
        (false, Format::Table) => print_table(&mut out, &texts, &vectors)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn read_texts(given: &[String], file: Option<PathBuf>) -> anyhow::Result<Vec<String>> {
    let lines = |text: String| {
        text.lines()
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let mut texts = Vec::new();
    for text in given {
        if text == "-" {
            if io::stdin().is_terminal() {
                let _ = writeln!(io::stderr(), "a text a line, Ctrl-D ends");
            }
            let mut input = String::new();
            io::stdin()
                .read_to_string(&mut input)
                .context("cannot read stdin as UTF-8 text")?;
            texts.extend(lines(input));
        } else {
            texts.push(text.clone());
        }
    }
    if let Some(path) = file {
        let content = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        texts.extend(lines(content));
    }
    if texts.is_empty() {
        bail!(UsageError("no texts: every line is empty".to_owned()));
    }
    Ok(texts)
}

/// Vectors in the order of `texts`, and the tokens that were read.
async fn embed(
    connection: &Connection,
    texts: &[String],
    dimensions: Option<i64>,
) -> anyhow::Result<(Vec<Vec<f32>>, u64)> {
    let (mut vectors, mut tokens) = (Vec::with_capacity(texts.len()), 0);
    for batch in texts.chunks(BATCH) {
        let request = EmbeddingRequest {
            model: connection.model.clone(),
            input: Input::Texts(batch.to_vec()),
            dimensions,
            encoding_format: Some("float".to_owned()),
            user: None,
        };
        let mut response = connection.client.embed(&request).await?;
        response.data.sort_by_key(|data| data.index);
        anyhow::ensure!(
            response.data.len() == batch.len(),
            "the endpoint answered with fewer vectors than texts"
        );
        for data in response.data {
            match data.embedding {
                EmbeddingVector::Float(vector) => vectors.push(vector),
                EmbeddingVector::Base64(_) => {
                    bail!("the endpoint answered with base64, although floats were asked for")
                }
            }
        }
        tokens += response.usage.prompt_tokens;
    }
    Ok((vectors, tokens))
}

fn record(index: usize, texts: &[String], vectors: &[Vec<f32>]) -> serde_json::Value {
    json!({ "index": index, "text": texts[index], "embedding": vectors[index] })
}

fn print_json(out: &mut impl Write, value: &serde_json::Value) -> anyhow::Result<()> {
    Ok(writeln!(out, "{}", serde_json::to_string_pretty(value)?)?)
}

fn print_table(out: &mut impl Write, texts: &[String], vectors: &[Vec<f32>]) -> io::Result<()> {
    let mut table = plain_table(&["TEXT", "DIMENSIONS", "NORM", "FIRST ELEMENTS"]);
    for (text, vector) in texts.iter().zip(vectors) {
        let first: Vec<_> = vector.iter().take(4).map(|x| format!("{x:.6}")).collect();
        let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        table.add_row([
            shorten(text),
            vector.len().to_string(),
            format!("{norm:.4}"),
            first.join(" "),
        ]);
    }
    writeln!(out, "{table}")
}

fn print_similarity(out: &mut impl Write, texts: &[String], cosines: &[Vec<f32>]) -> io::Result<()> {
    let numbers: Vec<_> = (1..=texts.len()).map(|number| number.to_string()).collect();
    let header: Vec<_> = ["", "TEXT"]
        .into_iter()
        .chain(numbers.iter().map(String::as_str))
        .collect();
    let mut table = plain_table(&header);
    for ((number, text), row) in numbers.iter().zip(texts).zip(cosines) {
        let cells = row.iter().map(|cosine| format!("{cosine:.4}"));
        table.add_row([number.clone(), shorten(text)].into_iter().chain(cells));
    }
    writeln!(out, "{table}")
}

/// `cos(a, b)` of every pair; 0 where a vector has no direction.
fn cosines(vectors: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let dot = |a: &[f32], b: &[f32]| {
        a.iter()
            .zip(b)
            .map(|(x, y)| f64::from(*x) * f64::from(*y))
            .sum::<f64>()
    };
    let norms: Vec<_> = vectors.iter().map(|vector| dot(vector, vector).sqrt()).collect();
    let cosine = |i: usize, j: usize| {
        let scale = norms[i] * norms[j];
        if scale > 0.0 {
            (dot(&vectors[i], &vectors[j]) / scale) as f32
        } else {
            0.0
        }
    };
    (0..vectors.len())
        .map(|i| (0..vectors.len()).map(|j| cosine(i, j)).collect())
        .collect()
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= SHOWN_CHARS {
        return text.to_owned();
    }
    let start: String = text.chars().take(SHOWN_CHARS - 1).collect();
    format!("{start}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cosine_does_not_depend_on_lengths() {
        let cosines = cosines(&[vec![1.0, 0.0], vec![2.0, 2.0], vec![0.0, 0.0]]);
        let close = |value: f32, expected: f32| (value - expected).abs() < 1e-6;
        assert!(close(cosines[0][0], 1.0) && close(cosines[0][1], 0.5_f32.sqrt()));
        assert_eq!(cosines[0][2], 0.0);
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        assert_eq!(shorten("short"), "short");
        assert_eq!(shorten(&"ä".repeat(50)).chars().count(), SHOWN_CHARS);
    }
}
