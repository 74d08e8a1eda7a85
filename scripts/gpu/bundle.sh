#!/usr/bin/env bash
# One folder with everything that a machine with a GPU and no Rust needs: bundle.sh [FOLDER] (default .cache/gpu-bundle).
set -euo pipefail
cd "$(dirname "$0")/../.."
to=${1:-.cache/gpu-bundle}
scripts/gpu/fetch-toolkit.sh
mkdir -p "$to/models/tests" "$to/runtime"

# built NAME CARGO-ARGUMENTS...: builds one target and puts it, without its symbols, into the bundle.
programs=()
built() {
    local name=$1 path
    shift
    path=$(cargo "$@" --message-format=json | python3 -c '
import json, sys
paths = [message["executable"] for message in map(json.loads, sys.stdin) if message.get("executable")]
print(paths[-1])')
    strip -o "$to/$name" "$path"
    programs+=("$name")
}
built kernels-cuda test --no-run -p ferrum-kernels --features cuda --test cuda
built models-cuda test --no-run -p ferrum-models --features cuda --test cuda
built models-cuda-smollm2 test --no-run -p ferrum-models --features cuda --test cuda_smollm2
built kernels-cuda-ranks test --no-run -p ferrum-kernels --features cuda --test cuda_ranks
built models-cuda-ranks test --no-run -p ferrum-models --features cuda --test cuda_ranks
built runtime-cuda-company test --no-run -p ferrum-runtime --features cuda --test cuda_company
built runtime-cuda-ahead test --no-run -p ferrum-runtime --features cuda --test cuda_ahead
built runtime-cuda-ranks test --no-run -p ferrum-runtime --features cuda --test cuda_ranks
built cuda-collective bench --no-run -p ferrum-kernels --features cuda --bench cuda_collective ${BENCH_PROFILE:+--profile "$BENCH_PROFILE"}
built cuda-engine bench --no-run -p ferrum-runtime --features cuda --bench cuda_engine ${BENCH_PROFILE:+--profile "$BENCH_PROFILE"}
built cuda-step bench --no-run -p ferrum-models --features cuda --bench cuda_step ${BENCH_PROFILE:+--profile "$BENCH_PROFILE"}
built kernels-bench bench --no-run -p ferrum-kernels --features cuda --bench cuda ${BENCH_PROFILE:+--profile "$BENCH_PROFILE"}
if [[ -z ${NO_PROGRAM:-} ]]; then
    built ferrum build -p ferrum-cli --features cuda ${PROGRAM_PROFILE---release}
fi
rm -rf "$to/models/tests/fixtures"
cp -r engine/models/tests/fixtures "$to/models/tests/fixtures"
cp scripts/gpu/run-gpu-*.sh scripts/gpu/environment.sh scripts/gpu/random_checkpoint.py scripts/gpu/load.py \
    scripts/dequantize_gguf.py "$to"
# With PACK set, programs in one file: they hold the same kernels, of which all but the first then take no room.
if [[ -n ${PACK:-} ]]; then
    tar --create --directory "$to" --remove-files "${programs[@]}" |
        xz --threads=1 --lzma2=preset=6,dict=192MiB >"$to/programs.tar.xz"
fi
du -sh "$to"
