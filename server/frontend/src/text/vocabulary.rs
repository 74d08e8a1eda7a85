//! What each token id stands for.

use std::{collections::HashSet, sync::Arc};

use tokenizers::{DecoderWrapper, Tokenizer};

use super::byte_level::token_bytes;

/// Texts of a tokenizer's ids, in the form that makes decoding cheap.
pub(crate) enum Vocabulary {
    /// Byte-level BPE: an id is always the same bytes.
    Bytes(ByteTable),
    /// Any other decoder, asked through the tokenizer. `special` are the ids that are no text.
    Windows {
        tokenizer: Arc<Tokenizer>,
        special: HashSet<u32>,
    },
}

/// Bytes of every id, end to end.
pub(crate) struct ByteTable {
    bytes: Vec<u8>,
    /// Where each id begins; one more than ids.
    starts: Vec<u32>,
    special: HashSet<u32>,
}

impl Vocabulary {
    /// Reads `tokenizer`, of which ids below `vocab_size` may come.
    pub(crate) fn new(tokenizer: &Arc<Tokenizer>, vocab_size: usize) -> Self {
        let special: HashSet<u32> = tokenizer
            .get_added_tokens_decoder()
            .iter()
            .filter(|(_, token)| token.special)
            .map(|(&id, _)| id)
            .collect();
        if !matches!(tokenizer.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
            let tokenizer = Arc::clone(tokenizer);
            return Self::Windows { tokenizer, special };
        }
        let ids = vocab_size.max(tokenizer.get_vocab_size(true));
        let mut bytes = Vec::with_capacity(ids * 8);
        let mut starts = Vec::with_capacity(ids + 1);
        for id in 0..ids {
            starts.push(bytes.len() as u32);
            let token = u32::try_from(id).ok().and_then(|id| tokenizer.id_to_token(id));
            bytes.extend(token.map(|token| token_bytes(&token)).unwrap_or_default());
        }
        starts.push(bytes.len() as u32);
        Self::Bytes(ByteTable {
            bytes,
            starts,
            special,
        })
    }

    /// The bytes of one token by itself, special tokens included.
    pub(crate) fn bytes(&self, id: u32) -> Vec<u8> {
        match self {
            Self::Bytes(table) => table.raw(id).to_vec(),
            Self::Windows { tokenizer, .. } => {
                tokenizer.decode(&[id], false).unwrap_or_default().into_bytes()
            }
        }
    }

    /// The bytes that a run of tokens stands for in a prompt, special tokens included.
    pub(crate) fn bytes_of(&self, ids: &[u32]) -> Vec<u8> {
        match self {
            Self::Bytes(table) => ids.iter().flat_map(|&id| table.raw(id)).copied().collect(),
            Self::Windows { tokenizer, .. } => tokenizer.decode(ids, false).unwrap_or_default().into_bytes(),
        }
    }
}

impl ByteTable {
    /// Text of `id`: nothing for a special token or one that does not exist.
    pub(crate) fn text(&self, id: u32) -> &[u8] {
        if self.special.contains(&id) {
            return &[];
        }
        self.raw(id)
    }

    fn raw(&self, id: u32) -> &[u8] {
        let id = id as usize;
        match (self.starts.get(id), self.starts.get(id + 1)) {
            (Some(&start), Some(&end)) => &self.bytes[start as usize..end as usize],
            _ => &[],
        }
    }
}
