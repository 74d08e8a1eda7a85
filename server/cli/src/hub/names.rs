//! Short names: the one table from `family:size` to a repository of the hub.

/// Every short name, by family; sizes go up.
///
/// A repository named here has weights that Ferrum serves: safetensors of a family in the model registry.
const SHORT_NAMES: &[(&str, &str)] = &[
    ("llama3.1:8b", "meta-llama/Llama-3.1-8B-Instruct"),
    ("llama3.2:1b", "meta-llama/Llama-3.2-1B-Instruct"),
    ("llama3.2:3b", "meta-llama/Llama-3.2-3B-Instruct"),
    ("minilm:l6", "sentence-transformers/all-MiniLM-L6-v2"),
    ("minilm:l12", "sentence-transformers/all-MiniLM-L12-v2"),
    ("mistral:7b", "mistralai/Mistral-7B-Instruct-v0.3"),
    ("qwen2.5:0.5b", "Qwen/Qwen2.5-0.5B-Instruct"),
    ("qwen2.5:1.5b", "Qwen/Qwen2.5-1.5B-Instruct"),
    ("qwen2.5:3b", "Qwen/Qwen2.5-3B-Instruct"),
    ("qwen2.5:7b", "Qwen/Qwen2.5-7B-Instruct"),
    ("qwen2.5-coder:0.5b", "Qwen/Qwen2.5-Coder-0.5B-Instruct"),
    ("qwen2.5-coder:1.5b", "Qwen/Qwen2.5-Coder-1.5B-Instruct"),
    ("qwen2.5-coder:7b", "Qwen/Qwen2.5-Coder-7B-Instruct"),
    ("qwen3:0.6b", "Qwen/Qwen3-0.6B"),
    ("qwen3:1.7b", "Qwen/Qwen3-1.7B"),
    ("qwen3:4b", "Qwen/Qwen3-4B"),
    ("qwen3:8b", "Qwen/Qwen3-8B"),
    ("smollm2:135m", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ("smollm2:360m", "HuggingFaceTB/SmolLM2-360M-Instruct"),
    ("smollm2:1.7b", "HuggingFaceTB/SmolLM2-1.7B-Instruct"),
];

/// How like a known name an unknown one must be to be offered, from 0 to 1 (Jaro-Winkler). Of the typing errors
/// tried (a letter lost, doubled or swapped, a missing point) none was below 0.85; unrelated words stay below 0.7.
const ALIKE: f64 = 0.8;

/// The repository behind a short name; case does not matter.
pub(crate) fn repository(name: &str) -> Option<&'static str> {
    SHORT_NAMES
        .iter()
        .find(|(short, _)| short.eq_ignore_ascii_case(name))
        .map(|(_, repo)| *repo)
}

/// The short name of a repository.
pub(crate) fn short_name(repo: &str) -> Option<&'static str> {
    SHORT_NAMES
        .iter()
        .find(|(_, known)| *known == repo)
        .map(|(short, _)| *short)
}

/// Every short name.
pub(crate) fn all() -> impl Iterator<Item = &'static str> {
    SHORT_NAMES.iter().map(|(short, _)| *short)
}

/// What a person who typed `text` may have meant, likeliest first: the sizes of a family named without one, or
/// names and repositories that look like it.
pub(crate) fn suggestions(text: &str) -> Vec<&'static str> {
    let text = text.to_ascii_lowercase();
    let family: Vec<_> = all()
        .filter(|short| short.split(':').next() == Some(text.as_str()))
        .collect();
    if !family.is_empty() {
        return family;
    }
    let known = SHORT_NAMES.iter().flat_map(|(short, repo)| [*short, *repo]);
    let mut scored: Vec<_> = known
        .filter(|name| name.contains('/') == text.contains('/'))
        .map(|name| (strsim::jaro_winkler(&text, &name.to_ascii_lowercase()), name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().map(|(_, name)| name).take(3).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_one_repository_and_back() {
        for (short, repo) in SHORT_NAMES {
            assert_eq!(repository(short), Some(*repo));
            assert_eq!(short_name(repo), Some(*short), "{repo} has two short names");
            assert_eq!(repo.split('/').count(), 2, "{repo}");
            assert_eq!(short.split(':').count(), 2, "{short}");
        }
        assert_eq!(
            repository("SmolLM2:135M"),
            Some("HuggingFaceTB/SmolLM2-135M-Instruct")
        );
    }

    #[test]
    fn a_typing_error_finds_the_name_that_was_meant() {
        for (typed, meant) in [
            ("smolm2:135m", "smollm2:135m"),
            ("smollm:135m", "smollm2:135m"),
            ("qwen3:06b", "qwen3:0.6b"),
            ("lama3.2:1b", "llama3.2:1b"),
            ("mnilm:l6", "minilm:l6"),
            ("qwen/qwen3-06b", "Qwen/Qwen3-0.6B"),
        ] {
            assert_eq!(suggestions(typed).first(), Some(&meant), "{typed}");
        }
        assert!(suggestions("kubernetes").is_empty());
    }

    #[test]
    fn a_family_without_a_size_lists_its_sizes() {
        assert_eq!(
            suggestions("smollm2"),
            ["smollm2:135m", "smollm2:360m", "smollm2:1.7b"]
        );
    }
}
