#!/usr/bin/env bash
# Every test that needs a GPU, from a bundle (make gpu-bundle): no Rust is needed here.
set -uo pipefail
cd "$(dirname "$0")" || exit
# shellcheck source=scripts/gpu/environment.sh
source ./environment.sh
failed=0
./kernels-cuda "$@" || failed=1
CARGO_MANIFEST_DIR=$PWD/models ./models-cuda "$@" || failed=1
CARGO_MANIFEST_DIR=$PWD/runtime ./runtime-cuda-company "$@" || failed=1
CARGO_MANIFEST_DIR=$PWD/runtime ./runtime-cuda-ahead "$@" || failed=1
if [[ $(nvidia-smi --list-gpus | wc -l) -ge 2 ]]; then
    ./kernels-cuda-ranks "$@" || failed=1
    CARGO_MANIFEST_DIR=$PWD/models ./models-cuda-ranks "$@" || failed=1
    CARGO_MANIFEST_DIR=$PWD/runtime ./runtime-cuda-ranks "$@" || failed=1
else
    echo "One GPU: tests of models split over GPUs need two and were not run." >&2
fi
exit $failed
