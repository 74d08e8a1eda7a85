//! Manifest files: several documents each, YAML or JSON, refused with file, line and column.

use std::{
    fmt,
    io::Read,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    FieldPath, Problem, Reason, ValidatedModel,
    yaml::{self, Node, Position},
};

/// A text that holds manifests.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Source {
    /// File name, for messages.
    pub name: String,
    /// Content.
    pub text: String,
}

/// Why manifests are refused: every problem of every file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusals(pub Vec<Refusal>);

/// One problem and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// File name.
    pub file: String,
    /// Line from 1; 0 when it is about the file as a whole.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// Reads and parses manifest files; `-` is standard input.
///
/// # Errors
/// Every problem of every file, and files that cannot be read.
pub fn read(files: &[PathBuf]) -> Result<Vec<ValidatedModel>, Refusals> {
    read_with(files, |_| Vec::new())
}

/// Like [`read`], for a place with limits of its own: `check` tells what it cannot serve.
///
/// # Errors
/// As [`read`], and what `check` tells.
pub fn read_with(
    files: &[PathBuf],
    check: impl Fn(&ValidatedModel) -> Vec<Problem>,
) -> Result<Vec<ValidatedModel>, Refusals> {
    let (sources, mut refusals) = read_all(files);
    match parse_with(&sources, check) {
        Ok(models) if refusals.is_empty() => Ok(models),
        Ok(_) => Err(Refusals(refusals)),
        Err(more) => {
            refusals.extend(more.0);
            Err(Refusals(refusals))
        }
    }
}

/// Reads manifest files without parsing them; `-` is standard input.
///
/// # Errors
/// Files that cannot be read.
pub fn read_sources(files: &[PathBuf]) -> Result<Vec<Source>, Refusals> {
    match read_all(files) {
        (sources, refusals) if refusals.is_empty() => Ok(sources),
        (_, refusals) => Err(Refusals(refusals)),
    }
}

/// Parses manifests.
///
/// # Errors
/// Every problem of every document, and models that clash with each other.
pub fn parse(sources: &[Source]) -> Result<Vec<ValidatedModel>, Refusals> {
    parse_with(sources, |_| Vec::new())
}

/// Like [`parse`], for a place with limits of its own: `check` tells what it cannot serve.
///
/// # Errors
/// As [`parse`], and what `check` tells.
pub fn parse_with(
    sources: &[Source],
    check: impl Fn(&ValidatedModel) -> Vec<Problem>,
) -> Result<Vec<ValidatedModel>, Refusals> {
    let mut refusals = Vec::new();
    let mut documents = Vec::new();
    for source in sources {
        match yaml::parse(&source.text) {
            Ok(nodes) if nodes.is_empty() => {
                let message = "holds no FerrumModel".to_owned();
                refusals.push(Refusal {
                    file: source.name.clone(),
                    line: 0,
                    column: 0,
                    message,
                });
            }
            Ok(nodes) => documents.extend(nodes.into_iter().map(|root| Document {
                file: &source.name,
                root,
            })),
            Err(error) => refusals.push(refusal(&source.name, error.at, error.message)),
        }
    }
    let mut accepted: Vec<(Document<'_>, ValidatedModel)> = Vec::new();
    for document in documents {
        match ValidatedModel::from_value(&document.root.to_value()) {
            Ok(model) => {
                refusals.extend(check(&model).iter().map(|problem| document.refusal(problem)));
                refusals.extend(clashes(&document, &model, &accepted));
                accepted.push((document, model));
            }
            Err(problems) => {
                let mut refused: Vec<_> = problems.iter().map(|problem| document.refusal(problem)).collect();
                refused.sort_by_key(|refusal| (refusal.line, refusal.column));
                refusals.extend(refused);
            }
        }
    }
    if refusals.is_empty() {
        return Ok(accepted.into_iter().map(|(_, model)| model).collect());
    }
    Err(Refusals(refusals))
}

struct Document<'a> {
    file: &'a str,
    root: Node,
}

impl Document<'_> {
    fn refusal(&self, problem: &Problem) -> Refusal {
        let at = match problem.reason {
            Reason::Unknown { .. } => self.root.locate_key(&problem.path),
            _ => self.root.locate(&problem.path),
        };
        refusal(self.file, at, problem.to_string())
    }

    fn place_of(&self, path: &FieldPath) -> String {
        let at = self.root.locate(path);
        format!("{}:{}:{}", self.file, at.line, at.column)
    }
}

/// Names that an earlier model has already.
fn clashes(
    document: &Document<'_>,
    model: &ValidatedModel,
    earlier: &[(Document<'_>, ValidatedModel)],
) -> Vec<Refusal> {
    let name_path = FieldPath::of("metadata.name");
    let names_path = FieldPath::of("spec.servedNames");
    let mut refusals = Vec::new();
    for (other_document, other) in earlier {
        if other.name() == model.name() {
            let by = other_document.place_of(&name_path);
            refusals.push(document.refusal(&Problem::taken(name_path.clone(), model.name(), by)));
            // Without servedNames the name is also what clients say; one refusal is enough.
            continue;
        }
        for (index, served) in model.served_names().iter().enumerate() {
            if other.served_names().contains(served) {
                let by = format!("model {}, {}", other.name(), other_document.place_of(&names_path));
                refusals.push(document.refusal(&Problem::taken(names_path.index(index), served, by)));
            }
        }
    }
    refusals
}

fn read_all(files: &[PathBuf]) -> (Vec<Source>, Vec<Refusal>) {
    let mut sources = Vec::new();
    let mut refusals = Vec::new();
    for file in files {
        match read_source(file) {
            Ok(source) => sources.push(source),
            Err(refusal) => refusals.push(refusal),
        }
    }
    (sources, refusals)
}

fn read_source(file: &Path) -> Result<Source, Refusal> {
    /// A manifest of the largest cluster is far below it.
    const MOST_BYTES: u64 = 4 << 20;
    let is_stdin = file == Path::new("-");
    let name = if is_stdin {
        "stdin".to_owned()
    } else {
        file.display().to_string()
    };
    let refuse = |message: String| Refusal {
        file: name.clone(),
        line: 0,
        column: 0,
        message,
    };
    let mut bytes = Vec::new();
    let read = if is_stdin {
        std::io::stdin().take(MOST_BYTES + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|open| open.take(MOST_BYTES + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| refuse(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(refuse("too large: expected at most 4 MiB".to_owned()));
    }
    let text = String::from_utf8(bytes).map_err(|_| refuse("not text: expected UTF-8".to_owned()))?;
    Ok(Source { name, text })
}

fn refusal(file: &str, at: Position, message: String) -> Refusal {
    Refusal {
        file: file.to_owned(),
        line: at.line,
        column: at.column,
        message,
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return write!(f, "{}: {}", self.file, self.message);
        }
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, refusal) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            refusal.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusals {}
