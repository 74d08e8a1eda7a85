//! Fields with several JSON shapes. Written by hand rather than as untagged enums, so that an error still names
//! the element (`input[3]`) and large lists are read in one pass.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, SeqAccess, Unexpected, Visitor},
};

/// `prompt` of completions, `input` of embeddings.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Input {
    /// One text as token ids.
    Ids(Vec<u32>),
    /// Several texts as token ids.
    IdLists(Vec<Vec<u32>>),
    /// One text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputVisitor)
    }
}

/// `stop`: one string or a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct StopStrings(pub Vec<String>);

impl<'de> Deserialize<'de> for StopStrings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StopVisitor)
    }
}

struct InputVisitor;

impl<'de> Visitor<'de> for InputVisitor {
    type Value = Input;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a list of strings, a list of token ids or a list of lists of token ids")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Input, E> {
        Ok(Input::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Input, A::Error> {
        let mut input = None;
        while let Some(item) = seq.next_element()? {
            match (&mut input, item) {
                (None, Item::Id(id)) => input = Some(Input::Ids(vec![id])),
                (None, Item::Ids(ids)) => input = Some(Input::IdLists(vec![ids])),
                (None, Item::Text(text)) => input = Some(Input::Texts(vec![text])),
                (Some(Input::Ids(list)), Item::Id(id)) => list.push(id),
                (Some(Input::IdLists(list)), Item::Ids(ids)) => list.push(ids),
                (Some(Input::Texts(list)), Item::Text(text)) => list.push(text),
                (Some(_), _) => {
                    return Err(Error::custom(format_args!(
                        "mixed list, expected {}",
                        Expected(&self)
                    )));
                }
            }
        }
        Ok(input.unwrap_or(Input::Texts(Vec::new())))
    }
}

enum Item {
    Id(u32),
    Ids(Vec<u32>),
    Text(String),
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemVisitor)
    }
}

struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a token id or a list of token ids")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Item, E> {
        Ok(Item::Text(text.to_owned()))
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<Item, E> {
        u32::try_from(id)
            .map(Item::Id)
            .map_err(|_| E::invalid_value(Unexpected::Unsigned(id), &"a token id"))
    }

    fn visit_i64<E: Error>(self, id: i64) -> Result<Item, E> {
        Err(E::invalid_value(Unexpected::Signed(id), &"a token id"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Item, A::Error> {
        let mut ids = Vec::new();
        while let Some(id) = seq.next_element()? {
            ids.push(id);
        }
        Ok(Item::Ids(ids))
    }
}

struct StopVisitor;

impl<'de> Visitor<'de> for StopVisitor {
    type Value = StopStrings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of strings")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<StopStrings, E> {
        Ok(StopStrings(vec![text.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<StopStrings, A::Error> {
        let mut strings = Vec::new();
        while let Some(text) = seq.next_element()? {
            strings.push(text);
        }
        Ok(StopStrings(strings))
    }
}

/// Shows what a visitor expects.
struct Expected<'a, V>(&'a V);

impl<'de, V: Visitor<'de>> fmt::Display for Expected<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }
}
