//! The engine's own enums as words of a manifest, so that the list of words exists once.

use std::str::FromStr;

use ferrum_engine::{Device, Dtype, OutputLayer, Quantization};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serializer, de::Error};

use super::ModelTask;

pub(super) trait Word: FromStr<Err = String> + Copy + 'static {
    fn words() -> Vec<&'static str>;
    fn word(self) -> &'static str;
}

macro_rules! word {
    ($($name:ident),*) => {$(
        impl Word for $name {
            fn words() -> Vec<&'static str> {
                Self::ALL.iter().map(|value| value.as_str()).collect()
            }

            fn word(self) -> &'static str {
                self.as_str()
            }
        }
    )*};
}
word!(Device, Dtype, ModelTask, OutputLayer, Quantization);

pub(super) fn schema<W: Word>(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": W::words()})
}

pub(super) fn serialize<W: Word, S: Serializer>(value: &Option<W>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.serialize_str(value.word()),
        None => serializer.serialize_none(),
    }
}

pub(super) fn deserialize<'de, W: Word, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<W>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(D::Error::custom))
        .transpose()
}
