#!/usr/bin/env bash
# Decode and prefill of a random Qwen3-4B on this GPU, beside what this machine's memory copies at, and its kernels:
# run-gpu-bench.sh [SHAPE [FOLDER]]. Where there are two GPUs, on both too, and what sums over them take.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=scripts/gpu/environment.sh
source ./environment.sh
shape=${1:-qwen3-4b} folder=${2:-${TMPDIR:-/tmp}/ferrum-random}
[[ -f $folder/$shape/model.safetensors ]] || python3 random_checkpoint.py "$shape" "$folder/$shape"
copy=$(python3 - <<'PY'
import torch
a = torch.empty(2**32, dtype=torch.uint8, device="cuda").random_(); b = torch.empty_like(a)
times = []
for _ in range(20):
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record(); b.copy_(a); end.record(); torch.cuda.synchronize(); times.append(start.elapsed_time(end))
print(round(2 * 2**32 / sorted(times)[10] / 1e6))
PY
)
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
echo "device copy: $copy GB/s (read and written)"
./cuda-step "$folder/$shape" "$copy"
./cuda-engine "$folder/$shape"
./kernels-bench
# The same shape at 4 bits.
[[ -f $folder/$shape-gptq/model.safetensors ]] || python3 random_checkpoint.py --gptq "$shape" "$folder/$shape-gptq"
./cuda-step "$folder/$shape-gptq" "$copy"
if [[ $(nvidia-smi --list-gpus | wc -l) -ge 2 ]]; then
    ./cuda-step "$folder/$shape" "$copy" 2
    ./cuda-collective 2
fi
