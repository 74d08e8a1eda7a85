#!/usr/bin/env python3
"""SmolLM2-135M-Instruct as GPTQ INT4 with what transformers answers on its dequantized weights, for run-gpu-smollm2.sh.

    quantize_smollm2.py DENSE-FOLDER OUT

DENSE-FOLDER is smollm2-135m-instruct of `make models`; OUT becomes smollm2-135m-instruct-gptq-g64: 4 bits, groups of 64
(576 columns are no multiple of 128), symmetric, by gptqmodel's own algorithm, and beside it reference.json: prompts, the
likeliest tokens in single precision, and the distance of the two likeliest for each. Takes about 4 minutes on two
cores. Needs an environment with gptqmodel 7.7, torch, transformers and safetensors (GPTQ is not reproducible from machine
to machine: answers belong to the weights beside them).
"""

import json
import os
import pydoc
import sys
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")

import torch
from gptqmodel import GPTQModel, QuantizeConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

MAX_TOKENS = 32
CHAT = [
    "What is the capital of France?",
    "What is the capital of France? Answer in one sentence.",
    "What is 2+2?",
]
RAW = ["1, 2, 3, 4, 5, 6, 7,", "The quick brown fox", "The capital of France is", "Monday, Tuesday, Wednesday,"]


def quantize(dense: str, out: str) -> None:
    # Text that is on every machine: the documentation of Python's own modules.
    import argparse, collections, decimal, email, logging, pathlib, re

    modules = (json, collections, re, logging, argparse, decimal, pathlib, email)
    text = "\n\n".join(pydoc.render_doc(module, renderer=pydoc.plaintext) for module in modules)
    calibration = [text[at : at + 1200] for at in range(0, 48 * 1200, 1200)]
    model = GPTQModel.load(dense, QuantizeConfig(bits=4, group_size=64, desc_act=False, sym=True, device="cpu"))
    model.quantize(calibration, batch_size=1)
    model.save(out)


def dequantized(packed: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """(out, in) from eight levels a word along the inputs, zeros eight a word along the outputs and less one."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    levels = (packed[f"{name}.qweight"].unsqueeze(1) >> shifts[None, :, None]) & 15
    zeros = ((packed[f"{name}.qzeros"].unsqueeze(2) >> shifts) & 15) + 1
    group = packed[f"{name}.g_idx"].long()
    zeros, scales = zeros.flatten(1)[group], packed[f"{name}.scales"].float()[group]
    return ((levels.flatten(0, 1) - zeros).float() * scales).T.contiguous()


def reference(dense: str, out: str) -> list[dict]:
    model = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32).eval()
    packed = load_file(f"{out}/model.safetensors")
    layers = {key.removesuffix(".qweight") for key in packed if key.endswith(".qweight")}
    own = {f"{name}.weight": dequantized(packed, name) for name in layers}
    own |= {key: value.float() for key, value in packed.items() if key.endswith((".weight", ".bias"))}
    missing = model.load_state_dict(own, strict=False).missing_keys
    assert set(missing) <= {"lm_head.weight"}, missing
    tokenizer = AutoTokenizer.from_pretrained(dense)
    texts = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False)
        for text in CHAT
    ] + RAW
    return [answer(model, tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id) for text in texts]


@torch.no_grad()
def answer(model, prompt: list[int], end: int) -> dict:
    ids, margins = [], []
    while len(ids) < MAX_TOKENS and end not in ids:
        best = model(torch.tensor([prompt + ids])).logits[0, -1].topk(2)
        ids.append(best.indices[0].item())
        margins.append(round((best.values[0] - best.values[1]).item(), 4))
    return {"prompt": prompt, "ids": ids, "margins": margins}


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    dense, out = sys.argv[1:]
    if not Path(out).exists():
        quantize(dense, out)
    answers = reference(dense, out)
    Path(out, "reference.json").write_text(json.dumps(answers, indent=1) + "\n")
    print(f"{out}: {len(answers)} answers, margins {[min(answer['margins']) for answer in answers]}")


main()
