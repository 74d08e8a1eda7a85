//! Metadata values.

use ferrum_kernels::SharedBytes;

use super::cursor::Cursor;

/// A metadata value. Integers and floats of all widths are one kind each.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Array(Array),
    Bool(bool),
    Float(f64),
    Int(i64),
    Text(String),
    Uint(u64),
}

/// An array that stays in the file until it is asked for: a vocabulary is large, and may never be needed.
#[derive(Clone, Debug)]
pub(crate) struct Array {
    kind: u32,
    len: u64,
    bytes: SharedBytes,
}

const UINT32: u32 = 4;
const INT32: u32 = 5;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Reads a type and its value. An array is walked once, so that all of it lies within the file.
pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Value, String> {
    let kind = cursor.u32()?;
    Ok(match kind {
        0 => Value::Uint(cursor.array::<1>()?[0].into()),
        1 => Value::Int(i8::from_le_bytes(cursor.array()?).into()),
        2 => Value::Uint(u16::from_le_bytes(cursor.array()?).into()),
        3 => Value::Int(i16::from_le_bytes(cursor.array()?).into()),
        UINT32 => Value::Uint(cursor.u32()?.into()),
        INT32 => Value::Int(i32::from_le_bytes(cursor.array()?).into()),
        6 => Value::Float(f32::from_le_bytes(cursor.array()?).into()),
        7 => match cursor.array::<1>()?[0] {
            0 => Value::Bool(false),
            1 => Value::Bool(true),
            other => return Err(format!("a boolean is {other}; expected 0 or 1")),
        },
        STRING => Value::Text(cursor.string()?),
        ARRAY => Value::Array(array(cursor)?),
        10 => Value::Uint(cursor.u64()?),
        11 => Value::Int(i64::from_le_bytes(cursor.array()?)),
        12 => Value::Float(f64::from_le_bytes(cursor.array()?)),
        other => return Err(format!("value type {other}; expected 0 to 12")),
    })
}

fn array(cursor: &mut Cursor<'_>) -> Result<Array, String> {
    let kind = cursor.u32()?;
    let len = cursor.u64()?;
    let start = cursor.position();
    let width: u64 = match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        STRING => {
            for _ in 0..len {
                cursor.str()?;
            }
            0
        }
        ARRAY => return Err("an array of arrays; expected numbers or texts".to_owned()),
        other => return Err(format!("array element type {other}; expected 0 to 12")),
    };
    let size = len
        .checked_mul(width)
        .ok_or_else(|| format!("an array of {len} elements"))?;
    cursor.skip(size)?;
    Ok(Array {
        kind,
        len,
        bytes: cursor.file().slice(start..cursor.position()),
    })
}

impl Value {
    pub(crate) fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::Uint(value) => Some(value),
            Self::Int(value) => value.try_into().ok(),
            _ => None,
        }
    }

    pub(crate) fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(value) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn as_array(&self) -> Option<&Array> {
        match self {
            Self::Array(value) => Some(value),
            _ => None,
        }
    }

    /// For the configuration, which reads both formats alike; an array shows its length only.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Array(array) => format!("an array of {}", array.len).into(),
            Self::Bool(value) => (*value).into(),
            Self::Float(value) => (*value).into(),
            Self::Int(value) => (*value).into(),
            Self::Text(value) => value.as_str().into(),
            Self::Uint(value) => (*value).into(),
        }
    }
}

impl Array {
    /// The texts, if it is an array of texts.
    pub(crate) fn strings(&self) -> Option<Vec<&str>> {
        if self.kind != STRING {
            return None;
        }
        let mut texts = Vec::new();
        let mut rest: &[u8] = &self.bytes;
        for _ in 0..self.len {
            let (length, tail) = rest.split_first_chunk::<8>()?;
            let (text, tail) = tail.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
            texts.push(std::str::from_utf8(text).ok()?);
            rest = tail;
        }
        Some(texts)
    }

    /// The numbers, if it is an array of 32-bit integers.
    pub(crate) fn integers(&self) -> Option<Vec<i64>> {
        let words = self.bytes.as_chunks().0.iter();
        match self.kind {
            INT32 => Some(words.map(|&word| i32::from_le_bytes(word).into()).collect()),
            UINT32 => Some(words.map(|&word| u32::from_le_bytes(word).into()).collect()),
            _ => None,
        }
    }
}
