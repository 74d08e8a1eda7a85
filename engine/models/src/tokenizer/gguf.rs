//! A tokenizer from GGUF metadata: byte-level BPE (`tokenizer.ggml.model` gpt2).

use tokenizers::{
    AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer,
    models::bpe::BPE,
    normalizers::unicode::NFC,
    pre_tokenizers::{
        byte_level::ByteLevel,
        digits::Digits,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
    processors::template::TemplateProcessing,
};

use crate::{
    LoadError,
    weights::gguf::{Array, GgufFile, Value},
};

/// llama.cpp's token types.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// How a text is cut into words, by `tokenizer.ggml.pre`.
struct PreTokenizer {
    names: &'static [&'static str],
    split: Cut,
    /// A word that is an entry of the vocabulary is taken whole, whatever the merges say.
    ignore_merges: bool,
    /// Text is brought to Unicode's composed form first, as the tokenizer that the model was trained with does.
    nfc: bool,
}

enum Cut {
    /// GPT-2's own pattern.
    Gpt2,
    /// Each digit by itself, then GPT-2's pattern.
    DigitsThenGpt2,
    /// This pattern.
    Pattern(&'static str),
}

/// The patterns are those of the models' own tokenizer.json.
const PRE_TOKENIZERS: [PreTokenizer; 4] = [
    PreTokenizer {
        names: &["gpt-2"],
        split: Cut::Gpt2,
        ignore_merges: false,
        nfc: false,
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3"],
        split: Cut::Pattern(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        ignore_merges: true,
        nfc: false,
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen"],
        split: Cut::Pattern(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        ignore_merges: false,
        nfc: true,
    },
    PreTokenizer {
        names: &["smollm"],
        split: Cut::DigitsThenGpt2,
        ignore_merges: false,
        nfc: false,
    },
];

/// Builds the tokenizer.
pub(crate) fn build_gguf(file: &GgufFile) -> Result<Tokenizer, LoadError> {
    if file.value("tokenizer.ggml.model").is_none() {
        return Err(LoadError::MissingTokenizer {
            path: file.path.clone(),
            expected: "tokenizer.ggml.model in the metadata",
        });
    }
    build(file).map_err(|reason| LoadError::Tokenizer {
        path: file.path.clone(),
        reason,
    })
}

fn build(file: &GgufFile) -> Result<Tokenizer, String> {
    let model = file.string("tokenizer.ggml.model").unwrap_or("no text");
    if model != "gpt2" {
        return Err(format!(
            "tokenizer.ggml.model is {model}; expected gpt2 (byte-level BPE)"
        ));
    }
    let pre = pre_tokenizer(file.string("tokenizer.ggml.pre"))?;
    let tokens = strings(file, "tokenizer.ggml.tokens")?;
    let mut tokenizer = Tokenizer::new(bpe(file, &tokens, pre.ignore_merges)?);
    tokenizer.with_pre_tokenizer(Some(cut(&pre.split)?));
    tokenizer.with_decoder(Some(ByteLevel::new(true, true, true)));
    if pre.nfc {
        tokenizer
            .with_normalizer(Some(NFC))
            .map_err(|error| error.to_string())?;
    }
    add_tokens(file, &tokens, &mut tokenizer)?;
    if let Some(template) = begin_of_sequence(file, &tokens)? {
        tokenizer.with_post_processor(Some(template));
    }
    Ok(tokenizer)
}

fn pre_tokenizer(name: Option<&str>) -> Result<&'static PreTokenizer, String> {
    let name = name.unwrap_or("missing");
    let found = PRE_TOKENIZERS.iter().find(|pre| pre.names.contains(&name));
    found.ok_or_else(|| {
        let known: Vec<&str> = PRE_TOKENIZERS.iter().flat_map(|pre| pre.names).copied().collect();
        format!(
            "tokenizer.ggml.pre is {name}; expected one of {}",
            known.join(", ")
        )
    })
}

fn bpe(file: &GgufFile, tokens: &[&str], ignore_merges: bool) -> Result<BPE, String> {
    let ids = 0_u32..;
    let vocab = tokens
        .iter()
        .zip(ids)
        .map(|(token, id)| ((*token).to_owned(), id));
    let merges = strings(file, "tokenizer.ggml.merges")?.into_iter().map(|merge| {
        // The first part may be a space itself only as its byte-level letter, so that the first space parts them.
        let (left, right) = merge
            .split_once(' ')
            .ok_or_else(|| format!("merge {merge:?} has no space"))?;
        Ok((left.to_owned(), right.to_owned()))
    });
    BPE::builder()
        .vocab_and_merges(
            vocab.collect::<std::collections::HashMap<_, _, _>>(),
            merges.collect::<Result<Vec<_>, String>>()?,
        )
        .ignore_merges(ignore_merges)
        .build()
        .map_err(|error| format!("tokenizer.ggml.merges: {error}"))
}

fn cut(split: &Cut) -> Result<PreTokenizerWrapper, String> {
    let gpt2 = ByteLevel::new(false, true, true);
    Ok(match split {
        Cut::Gpt2 => gpt2.into(),
        Cut::DigitsThenGpt2 => Sequence::new(vec![Digits::new(true).into(), gpt2.into()]).into(),
        Cut::Pattern(pattern) => {
            let pattern = SplitPattern::Regex((*pattern).to_owned());
            let words = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(|error| error.to_string())?;
            Sequence::new(vec![words.into(), ByteLevel::new(false, false, false).into()]).into()
        }
    })
}

fn add_tokens(file: &GgufFile, tokens: &[&str], tokenizer: &mut Tokenizer) -> Result<(), String> {
    let Some(types) = file.value("tokenizer.ggml.token_type") else {
        return Ok(());
    };
    let types = types
        .as_array()
        .and_then(Array::integers)
        .filter(|types| types.len() == tokens.len());
    let types = types.ok_or("tokenizer.ggml.token_type: expected an integer for each token")?;
    let of_type = |wanted: i64| {
        let pairs = tokens
            .iter()
            .zip(&types)
            .filter(move |(_, kind)| **kind == wanted);
        pairs.map(move |(token, _)| AddedToken::from(*token, wanted == CONTROL).normalized(false))
    };
    let failed = |error: tokenizers::Error| format!("special tokens: {error}");
    tokenizer.add_special_tokens(of_type(CONTROL)).map_err(failed)?;
    tokenizer.add_tokens(of_type(USER_DEFINED)).map_err(failed)?;
    Ok(())
}

/// What puts the begin-of-sequence token before a text, where the metadata asks for it.
fn begin_of_sequence(file: &GgufFile, tokens: &[&str]) -> Result<Option<TemplateProcessing>, String> {
    if !file
        .value("tokenizer.ggml.add_bos_token")
        .and_then(Value::as_bool)
        .unwrap_or(false)
    {
        return Ok(None);
    }
    let id = file
        .token_id("bos")
        .ok_or("add_bos_token is set, bos_token_id is missing")?;
    let token = tokens
        .get(id as usize)
        .ok_or_else(|| format!("bos_token_id is {id}; expected below {}", tokens.len()))?;
    TemplateProcessing::builder()
        .try_single(vec![(*token).to_owned(), "$A".to_owned()])
        .and_then(|builder| builder.try_pair(vec![(*token).to_owned(), "$A".to_owned(), "$B:1".to_owned()]))
        .map_err(|error| error.to_string())?
        .special_tokens(vec![((*token).to_owned(), id)])
        .build()
        .map(Some)
        .map_err(|error| error.to_string())
}

fn strings<'a>(file: &'a GgufFile, key: &str) -> Result<Vec<&'a str>, String> {
    let array = file.value(key).and_then(Value::as_array).and_then(Array::strings);
    array.ok_or_else(|| format!("{key}: expected an array of texts"))
}
