//! A tokenizer and a chat template made in memory, so that everything above the engine works unchanged.

use tokenizers::{
    AddedToken, Tokenizer, decoders::byte_level::ByteLevel as ByteLevelDecoder, models::bpe::BPE,
    pre_tokenizers::byte_level::ByteLevel,
};

/// Begins a turn, and the sequence.
pub const IM_START: u32 = 256;
/// Ends a turn, and an answer.
pub const IM_END: u32 = 257;
/// Entries of the vocabulary.
pub(crate) const VOCAB_SIZE: usize = 258;
/// Texts of [`IM_START`] and [`IM_END`].
pub(crate) const SPECIAL_TOKENS: [&str; 2] = ["<|im_start|>", "<|im_end|>"];

/// ChatML.
pub const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + \
     message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ \
     '<|im_start|>assistant\\n' }}{% endif %}";

/// Encodes every byte as the id of its value.
///
/// # Errors
/// None in practice: what the tokenizers crate says of its own parts.
pub fn byte_level_tokenizer() -> tokenizers::Result<Tokenizer> {
    let vocab: Vec<(String, u32)> = (0..=255u8)
        .map(|byte| (byte_to_char(byte).to_string(), u32::from(byte)))
        .collect();
    let model = BPE::builder()
        .vocab_and_merges(
            vocab.into_iter().collect::<tokenizers::models::bpe::Vocab>(),
            Vec::new(),
        )
        .build()?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, false, false)));
    tokenizer.with_decoder(Some(ByteLevelDecoder::new(false, false, false)));
    tokenizer.add_special_tokens(SPECIAL_TOKENS.map(|text| AddedToken::from(text, true)))?;
    Ok(tokenizer)
}

/// The printable character that byte-level BPE writes for a byte: printable Latin-1 stands for itself, the other
/// 68 bytes are counted up from U+0100.
fn byte_to_char(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let index = (0..byte).filter(|&other| !printable(other)).count() as u32;
    char::from_u32(0x100 + index).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_its_own_id() {
        let tokenizer = byte_level_tokenizer().expect("builds");
        let text = "a\u{0}\n\t ~\u{7f}é山🌊";
        let encoding = tokenizer.encode(text, false).expect("encodes");
        let bytes: Vec<u32> = text.bytes().map(u32::from).collect();
        assert_eq!(encoding.get_ids(), bytes);
        assert_eq!(tokenizer.decode(&bytes, true).expect("decodes"), text);
    }

    #[test]
    fn special_tokens_follow_the_bytes() {
        let tokenizer = byte_level_tokenizer().expect("builds");
        assert_eq!(tokenizer.token_to_id("<|im_start|>"), Some(IM_START));
        assert_eq!(tokenizer.token_to_id("<|im_end|>"), Some(IM_END));
        assert_eq!(tokenizer.get_vocab_size(true), VOCAB_SIZE);
        let ids = tokenizer
            .encode("<|im_start|>hi<|im_end|>", false)
            .expect("encodes");
        assert_eq!(ids.get_ids(), [IM_START, 104, 105, IM_END]);
        assert_eq!(tokenizer.decode(ids.get_ids(), true).expect("decodes"), "hi");
    }
}
