#!/usr/bin/env python3
"""Writes a checkpoint of a real model's shape with random weights, bf16 or (--gptq) GPTQ INT4 in symmetric groups of
128, and a tokenizer in which every id is a text: how fast a dense model is does not depend on them. Needs torch and
safetensors, which a machine for GPU work has."""

import argparse
import json
import pathlib

import torch
from safetensors.torch import save_file

SHAPES = {
    "qwen3-4b": dict(hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32,
                     num_key_value_heads=8, head_dim=128, vocab_size=151936, tie_word_embeddings=True),
    "qwen3-0.6b": dict(hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
                       num_key_value_heads=8, head_dim=128, vocab_size=151936, tie_word_embeddings=True),
    "llama-3.1-8b": dict(model_type="llama", hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                         num_attention_heads=32, num_key_value_heads=8, head_dim=128, vocab_size=128256,
                         tie_word_embeddings=False),
}


def write_tokenizer(folder, vocab_size):
    """Bytes, spelled as byte-level tokenizers do, and words that no text holds."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    spelled = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    vocab = {spelled[byte]: byte for byte in range(256)} | {f"w{i}.": i for i in range(256, vocab_size)}
    byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=False)
    model = dict(type="BPE", vocab=vocab, merges=[])
    tokenizer = dict(version="1.0", added_tokens=[], pre_tokenizer=byte_level, decoder=byte_level, model=model)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(chat_template=template)))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--gptq", action="store_true")
    arguments = parser.parse_args()
    shape = SHAPES[arguments.shape]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    config = dict(model_type="qwen3", hidden_act="silu", rms_norm_eps=1e-6, rope_theta=1000000,
                  max_position_embeddings=40960, attention_bias=False, torch_dtype="bfloat16") | shape
    is_qwen3 = config["model_type"] == "qwen3"
    config["architectures"] = ["Qwen3ForCausalLM" if is_qwen3 else "LlamaForCausalLM"]
    if arguments.gptq:
        config["quantization_config"] = dict(quant_method="gptq", bits=4, group_size=128, sym=True, desc_act=False,
                                             checkpoint_format="gptq")
    (arguments.folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(arguments.folder, shape["vocab_size"])

    device = "cuda" if torch.cuda.is_available() else "cpu"
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    q, kv = shape["num_attention_heads"] * shape["head_dim"], shape["num_key_value_heads"] * shape["head_dim"]

    def matrix(rows, cols):
        return (torch.randn(rows, cols, device=device) * cols**-0.5).to(torch.bfloat16).cpu()

    def linear(name, rows, cols):
        if not arguments.gptq:
            return {name + ".weight": matrix(rows, cols)}
        levels = torch.randint(-2**31, 2**31 - 1, (cols // 8, rows), dtype=torch.int32, device=device).cpu()
        zeros = torch.full((cols // 128, rows // 8), 0x77777777, dtype=torch.int32)
        # Levels less 8 deviate by 4.6 from 0.
        scales = torch.full((cols // 128, rows), cols**-0.5 / 4.6, dtype=torch.float16)
        groups = torch.arange(cols, dtype=torch.int32) // 128
        return {name + ".qweight": levels, name + ".qzeros": zeros, name + ".scales": scales, name + ".g_idx": groups}

    def ones(width):
        return torch.ones(width, dtype=torch.bfloat16)

    tensors = {"model.embed_tokens.weight": matrix(shape["vocab_size"], hidden), "model.norm.weight": ones(hidden)}
    for layer in range(shape["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for name, rows, cols in (
            ("self_attn.q_proj", q, hidden), ("self_attn.k_proj", kv, hidden), ("self_attn.v_proj", kv, hidden),
            ("self_attn.o_proj", hidden, q), ("mlp.gate_proj", inner, hidden), ("mlp.up_proj", inner, hidden),
            ("mlp.down_proj", hidden, inner),
        ):
            tensors |= linear(at + name, rows, cols)
        tensors |= {at + name + ".weight": ones(hidden) for name in ("input_layernorm", "post_attention_layernorm")}
        if is_qwen3:
            tensors |= {at + f"self_attn.{name}_norm.weight": ones(shape["head_dim"]) for name in "qk"}
    if not shape["tie_word_embeddings"]:
        tensors["lm_head.weight"] = matrix(shape["vocab_size"], hidden)
    save_file(tensors, arguments.folder / "model.safetensors", metadata={"format": "pt"})


main()
