#!/usr/bin/env python3
"""Turn a GGUF file of architecture llama into a Hugging Face folder with dense weights.

    dequantize_gguf.py FILE.gguf FOLDER float16|float32

Run by fetch-test-models.py in an environment with the packages gguf and numpy. It is for tests: the folder holds the
numbers that the quantized file stands for, so that reading GGUF can be compared with reading safetensors.
"""

import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

SAFETENSORS_DTYPES = {"float16": "F16", "float32": "F32"}

OUTER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Metadata:
    """The file's metadata, by key."""

    def __init__(self, reader: GGUFReader):
        self.fields = reader.fields
        architecture = self["general.architecture"]
        if architecture != "llama":
            sys.exit(f"general.architecture is {architecture}; expected llama")

    def __getitem__(self, key: str):
        return self.fields[key].contents()

    def llama(self, key: str):
        return self[f"llama.{key}"]

    def token(self, name: str) -> tuple[int, str]:
        index = self[f"tokenizer.ggml.{name}_token_id"]
        return index, self["tokenizer.ggml.tokens"][index]


def hf_name(name: str) -> str:
    stem, end = name.rsplit(".", 1)
    if not stem.startswith("blk."):
        return f"{OUTER_NAMES[stem]}.{end}"
    _, layer, part = stem.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[part]}.{end}"


def halves(matrix: np.ndarray, heads: int) -> np.ndarray:
    """Rows of query or key heads: from pairs of neighbours, as llama.cpp rotates, to halves, as transformers does."""
    rows, cols = matrix.shape
    pairs = matrix.reshape(heads, rows // heads // 2, 2, cols)
    return np.concatenate([pairs[:, :, 0], pairs[:, :, 1]], axis=1).reshape(rows, cols)


def dense(tensor, meta: Metadata, dtype: str) -> np.ndarray:
    values = dequantize(tensor.data, tensor.tensor_type)
    if tensor.name.endswith("attn_q.weight"):
        values = halves(values, meta.llama("attention.head_count"))
    if tensor.name.endswith("attn_k.weight"):
        values = halves(values, meta.llama("attention.head_count_kv"))
    return np.ascontiguousarray(values, dtype=dtype)


def write_weights(path: Path, reader: GGUFReader, meta: Metadata, dtype: str) -> None:
    """Safetensors: header length, JSON header, data; one tensor in memory at a time."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for tensor in reader.tensors:
        shape = [int(dim) for dim in reversed(tensor.shape)]
        start, end = end, end + int(np.prod(shape)) * np.dtype(dtype).itemsize
        header[hf_name(tensor.name)] = {
            "dtype": SAFETENSORS_DTYPES[dtype],
            "shape": shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for done, tensor in enumerate(reader.tensors, start=1):
            file.write(dense(tensor, meta, dtype).tobytes())
            if sys.stderr.isatty():
                line_end = "\n" if done == len(reader.tensors) else ""
                print(f"\rdequantizing {done} of {len(reader.tensors)}", end=line_end, file=sys.stderr, flush=True)


def config(reader: GGUFReader, meta: Metadata, dtype: str) -> dict:
    names = {tensor.name for tensor in reader.tensors}
    heads, hidden = meta.llama("attention.head_count"), meta.llama("embedding_length")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": meta.llama("feed_forward_length"),
        "num_hidden_layers": meta.llama("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.llama("attention.head_count_kv"),
        "head_dim": hidden // heads,
        "max_position_embeddings": meta.llama("context_length"),
        "rms_norm_eps": float(np.float32(meta.llama("attention.layer_norm_rms_epsilon")).astype(str)),
        "rope_theta": meta.llama("rope.freq_base"),
        "vocab_size": len(meta["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": meta.token("bos")[0],
        "eos_token_id": meta.token("eos")[0],
        "torch_dtype": dtype,
    }


def tokenizer(meta: Metadata) -> dict:
    """tokenizer.json of a byte-level BPE tokenizer that cuts digits apart (`smollm`)."""
    if (meta["tokenizer.ggml.model"], meta["tokenizer.ggml.pre"]) != ("gpt2", "smollm"):
        sys.exit("tokenizer.ggml.pre: expected smollm")
    tokens, types = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    control = 3
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": index, "content": token, **plain}
            for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
            if kind == control
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in meta["tokenizer.ggml.merges"]],
        },
    }


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def main() -> None:
    source, folder, dtype = sys.argv[1:]
    if dtype not in SAFETENSORS_DTYPES:
        sys.exit(f"dtype is {dtype}; expected {' or '.join(SAFETENSORS_DTYPES)}")
    folder = Path(folder)
    folder.mkdir(parents=True)
    reader = GGUFReader(source)
    meta = Metadata(reader)
    (bos_id, bos), (eos_id, eos) = meta.token("bos"), meta.token("eos")
    write_json(folder / "config.json", config(reader, meta, dtype))
    write_json(folder / "generation_config.json", {"bos_token_id": bos_id, "eos_token_id": eos_id})
    write_json(folder / "tokenizer.json", tokenizer(meta))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": bos,
            "eos_token": eos,
            "chat_template": meta["tokenizer.chat_template"],
        },
    )
    write_weights(folder / "model.safetensors", reader, meta, dtype)


if __name__ == "__main__":
    main()
