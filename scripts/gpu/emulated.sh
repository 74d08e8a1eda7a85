#!/usr/bin/env bash
# The tests of the CUDA backend without a GPU: kernels compiled to PTX, run by the emulator (kernels/emulator).
#
#   emulated.sh                               all tests (hours on two cores)
#   emulated.sh --quick                       those of small shapes (minutes)
#   emulated.sh PACKAGE TEST [ARGUMENT...]    one; FERRUM_EMULATED_GPUS says how many GPUs there are, FERRUM_EMULATED_SMS how
#                                             many multiprocessors each has
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
target=${CARGO_TARGET_DIR:-target}
libraries=$target/emulator
cargo build --quiet --package ferrum-cuda-emulator || exit
mkdir -p "$libraries" || exit
# By these names the driver, cuBLASLt and NCCL are looked for.
for name in libcuda.so libcuda.so.1 libcublasLt.so libnccl.so.2; do
    ln -sf "$(realpath "$target/debug/libferrum_cuda_emulator.so")" "$libraries/$name" || exit
done
LD_LIBRARY_PATH=$(realpath "$libraries")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH FERRUM_CUDA_CODE=ptx

run() { # PACKAGE TEST [ARGUMENT...]
    echo "== $1: $2" >&2
    cargo test --quiet --package "$1" --features cuda --test "$2" -- "${@:3}"
}

# Small shapes, and every way in which kernels wait for one another.
quick=(
    activation deferred gated_hopper indices norm pooling recorded sampling attention_prompts
    linear::odd linear::a_row linear::gated_products linear::weights
    int4::odd int4::a_row int4::columns int4::four_bits_beside q8::embeddings
)

failed=0
case ${1:-} in
--quick)
    run ferrum-kernels cuda "${quick[@]}" || failed=1
    run ferrum-models cuda || failed=1
    run ferrum-cli cuda || failed=1
    # Few blocks wait for one another sooner.
    export FERRUM_EMULATED_GPUS=2 FERRUM_EMULATED_SMS=8
    run ferrum-kernels cuda_ranks || failed=1
    run ferrum-models cuda_ranks || failed=1
    ;;
'')
    run ferrum-kernels cuda || failed=1
    run ferrum-models cuda || failed=1
    run ferrum-runtime cuda_ahead || failed=1
    run ferrum-runtime cuda_company || failed=1
    run ferrum-cli cuda || failed=1
    export FERRUM_EMULATED_GPUS=2
    run ferrum-kernels cuda_ranks || failed=1
    run ferrum-models cuda_ranks || failed=1
    run ferrum-runtime cuda_ranks || failed=1
    ;;
*) run "$@" || failed=1 ;;
esac
exit $failed
