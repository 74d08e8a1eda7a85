#!/usr/bin/env bash
# SmolLM2-135M-Instruct on this GPU, against its reference answers: run-gpu-smollm2.sh FOLDER. In the folder (`make models`
# fills one) lies SmolLM2-135M-Instruct.Q4_1.gguf, whole or as SmolLM2-135M-Instruct.Q4_1.gguf.part-* that are joined here;
# dense folders that are missing are made from it, with the Python packages gguf and numpy (or what lies in FOLDER/python).
# With smollm2-135m-instruct-gptq-g64 (gptqmodel: 4 bits, groups of 64, symmetric) there, that is tested too.
set -euo pipefail
folder=$(realpath "${1:?a folder with SmolLM2-135M-Instruct.Q4_1.gguf}")
cd "$(dirname "$0")"
# shellcheck source=scripts/gpu/environment.sh
source ./environment.sh
gguf=$folder/SmolLM2-135M-Instruct.Q4_1.gguf
[[ -f $gguf ]] || cat "$gguf".part-* >"$gguf"
sha256sum --check --quiet <<<"b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53  $gguf"
dense() {
    local to=$folder/$1
    [[ -d $to ]] || PYTHONPATH=$folder/python${PYTHONPATH:+:$PYTHONPATH} python3 dequantize_gguf.py "$gguf" "$to" "$2"
}
dense smollm2-135m-instruct float16
dense smollm2-135m-instruct-f32 float32
without=()
if [[ ! -d $folder/smollm2-135m-instruct-gptq-g64 ]]; then
    echo "no smollm2-135m-instruct-gptq-g64 in $folder: its test is left out" >&2
    without=(--skip gptq)
fi
FERRUM_TEST_MODELS=$folder ./models-cuda-smollm2 "${without[@]}"
