//! YAML (and so JSON) into values that remember where each of them stands.
//!
//! One parser gives both the values and the positions, so that they cannot disagree.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag};
use serde_json::{Map, Value};

use crate::{FieldPath, Segment};

/// A place in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// Line, from 1.
    pub(crate) line: usize,
    /// Column in characters, from 1.
    pub(crate) column: usize,
}

/// A text that is not YAML, or YAML that no manifest needs.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) at: Position,
    pub(crate) message: String,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) at: Position,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Mapping(Vec<Entry>),
    Scalar(Value),
    Sequence(Vec<Node>),
}

#[derive(Clone, Debug)]
struct Entry {
    key: String,
    key_at: Position,
    value: Node,
}

/// The documents of a text; empty ones are left out.
pub(crate) fn parse(text: &str) -> Result<Vec<Node>, Unreadable> {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        nodes_left: MOST_NODES,
    };
    let mut documents = Vec::new();
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(documents),
            (Event::DocumentStart(_), _) => {
                reader.anchors.clear();
                let (event, span) = reader.next()?;
                let root = reader.node(event, span, 0)?;
                if !matches!(root.content, Content::Scalar(Value::Null)) {
                    documents.push(root);
                }
            }
            _ => {}
        }
    }
}

impl Node {
    /// The value without positions.
    pub(crate) fn to_value(&self) -> Value {
        match &self.content {
            Content::Mapping(entries) => {
                let fields = entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.value.to_value()));
                Value::Object(fields.collect::<Map<_, _>>())
            }
            Content::Scalar(value) => value.clone(),
            Content::Sequence(items) => items.iter().map(Self::to_value).collect(),
        }
    }

    /// Where the value at `path` stands; of a field that is missing, where the closest one above it begins.
    pub(crate) fn locate(&self, path: &FieldPath) -> Position {
        self.walk(path).unwrap_or_else(|closest| closest)
    }

    /// Where the key of the field at `path` stands.
    pub(crate) fn locate_key(&self, path: &FieldPath) -> Position {
        let mut node = self;
        let mut at = self.at;
        for segment in path.segments() {
            match (segment, &node.content) {
                (Segment::Index(index), Content::Sequence(items)) if *index < items.len() => {
                    node = &items[*index];
                    at = node.at;
                }
                (Segment::Key(key), Content::Mapping(entries)) => {
                    let Some(entry) = entries.iter().find(|entry| entry.key == *key) else {
                        return at;
                    };
                    node = &entry.value;
                    at = entry.key_at;
                }
                _ => return at,
            }
        }
        at
    }

    fn walk(&self, path: &FieldPath) -> Result<Position, Position> {
        let mut node = self;
        let mut closest = self.at;
        for segment in path.segments() {
            node = match (segment, &node.content) {
                (Segment::Index(index), Content::Sequence(items)) => items.get(*index).ok_or(closest)?,
                (Segment::Key(key), Content::Mapping(entries)) => {
                    let entry = entries.iter().find(|entry| entry.key == *key).ok_or(closest)?;
                    closest = entry.key_at;
                    &entry.value
                }
                _ => return Err(closest),
            };
        }
        Ok(node.at)
    }
}

struct Reader<'input> {
    parser: Parser<'input, StrInput<'input>>,
    anchors: HashMap<usize, Node>,
    nodes_left: usize,
}

/// Aliases count with all that they repeat, so that a few lines cannot become gigabytes.
const MOST_NODES: usize = 100_000;
const DEEPEST: usize = 64;

impl<'input> Reader<'input> {
    fn next(&mut self) -> Result<(Event<'input>, Span), Unreadable> {
        match self.parser.next_event() {
            None => Ok((Event::StreamEnd, Span::default())),
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(Unreadable {
                at: position(error.marker()),
                message: format!("not valid YAML: {}", error.info()),
            }),
        }
    }

    fn node(&mut self, event: Event<'input>, span: Span, depth: usize) -> Result<Node, Unreadable> {
        let at = position(&span.start);
        let refuse = |message: &str| {
            Err(Unreadable {
                at,
                message: message.to_owned(),
            })
        };
        if depth > DEEPEST {
            return refuse("nested too deeply: expected at most 64 levels");
        }
        self.count(1, at)?;
        let (anchor, content) = match event {
            Event::Alias(anchor) => return self.alias(anchor, at),
            Event::Scalar(text, style, anchor, tag) => {
                (anchor, Content::Scalar(scalar(&text, style, tag.as_deref(), at)?))
            }
            Event::SequenceStart(anchor, _) => (anchor, self.sequence(depth)?),
            Event::MappingStart(anchor, _) => (anchor, self.mapping(depth)?),
            _ => return refuse("not valid YAML: expected a value"),
        };
        let node = Node { at, content };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn sequence(&mut self, depth: usize) -> Result<Content, Unreadable> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Content::Sequence(items)),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Content, Unreadable> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let key_at = position(&span.start);
            let key = match event {
                Event::MappingEnd => return Ok(Content::Mapping(entries)),
                Event::Scalar(text, ..) => text.into_owned(),
                _ => {
                    let message = "a field's name is not a text".to_owned();
                    return Err(Unreadable { at: key_at, message });
                }
            };
            if let Some(first) = entries.iter().find(|entry| entry.key == key) {
                let message = format!("`{key}` stands twice: first in line {}", first.key_at.line);
                return Err(Unreadable { at: key_at, message });
            }
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            entries.push(Entry { key, key_at, value });
        }
    }

    fn alias(&mut self, anchor: usize, at: Position) -> Result<Node, Unreadable> {
        // A node that contains itself is not among the anchors yet when it is asked for.
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            let message = "the alias names nothing that is complete".to_owned();
            return Err(Unreadable { at, message });
        };
        self.count(size(&node), at)?;
        Ok(Node { at, ..node })
    }

    fn count(&mut self, nodes: usize, at: Position) -> Result<(), Unreadable> {
        let message = format!("too large: expected at most {MOST_NODES} values");
        self.nodes_left = self
            .nodes_left
            .checked_sub(nodes)
            .ok_or(Unreadable { at, message })?;
        Ok(())
    }
}

fn size(node: &Node) -> usize {
    match &node.content {
        Content::Mapping(entries) => 1 + entries.iter().map(|entry| size(&entry.value)).sum::<usize>(),
        Content::Scalar(_) => 1,
        Content::Sequence(items) => 1 + items.iter().map(size).sum::<usize>(),
    }
}

fn position(marker: &Marker) -> Position {
    Position {
        line: marker.line().max(1),
        column: marker.col() + 1,
    }
}

/// A scalar by the core schema, plus `y`, `n`, `yes`, `no`, `on` and `off`, which kubectl reads as booleans too. Numbers that
/// readers of YAML disagree on (`010`, `1_000`) stay text, and so are refused where a number is expected.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, at: Position) -> Result<Value, Unreadable> {
    match tag {
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => return Ok(text.into()),
        Some(tag) => {
            let message = format!("the tag {tag} is not supported: expected plain values");
            return Err(Unreadable { at, message });
        }
        None => {}
    }
    if style != ScalarStyle::Plain {
        return Ok(text.into());
    }
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" | "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => true.into(),
        "false" | "False" | "FALSE" | "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => false.into(),
        _ => number(text).unwrap_or_else(|| text.into()),
    })
}

fn number(text: &str) -> Option<Value> {
    let digits = text.trim_start_matches(['+', '-']);
    let is_number = digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c));
    let has_leading_zero = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
    if !is_number || has_leading_zero {
        return None;
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    if let Ok(number) = text.parse::<i64>() {
        return Some(number.into());
    }
    let number = text.parse::<f64>().ok()?;
    serde_json::Number::from_f64(number).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_are_read_as_kubectl_reads_them_or_stay_text() {
        let read = |text: &str| parse(&format!("a: {text}")).expect(text)[0].to_value()["a"].clone();
        // `kubectl label --local -o json` gives the same for these.
        for (text, value) in [
            ("yes", json!(true)),
            ("on", json!(true)),
            ("y", json!(true)),
            ("NO", json!(false)),
            ("~", json!(null)),
            ("-7", json!(-7)),
            ("1.5", json!(1.5)),
            ("'yes'", json!("yes")),
            ("!!str 5", json!("5")),
            ("1.2.3", json!("1.2.3")),
        ] {
            assert_eq!(read(text), value, "{text}");
        }
        // It reads these as numbers, others do not.
        for text in ["010", "1_000", "0o10", "0x10"] {
            assert_eq!(read(text), json!(text));
        }
    }
}
