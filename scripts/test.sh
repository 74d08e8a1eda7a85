#!/usr/bin/env bash
# Every test that can run on this machine; what is missing is fetched first. Ends with one count.
#
#   scripts/test.sh            all stages
#   scripts/test.sh rust       one stage: lint, rust, openai, cuda, emulated, e2e
set -uo pipefail
cd "$(dirname "$0")/.." || exit

log_dir=target/test-logs
mkdir -p "$log_dir"
failed_stages=()

# stage NAME COMMAND...: runs it, keeps its output, remembers a failure and goes on.
stage() {
    local name=$1
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    local started=$SECONDS
    if "$@" 2>&1 | tee "$log_dir/$name.log"; then
        printf '== %s: ok, %d s\n' "$name" $((SECONDS - started))
    else
        printf '== %s: FAILED, %d s\n' "$name" $((SECONDS - started))
        failed_stages+=("$name")
    fi
}

lint() { cargo fmt --all --check && cargo clippy --workspace --all-targets --features ferrum-e2e/cluster --quiet -- --deny warnings; }
build() { cargo build --release --quiet -p ferrum-cli; }
rust() { cargo test --workspace --no-fail-fast; }
openai() { e2e/openai/run.sh; }
# Compiles every kernel, lints what launches them and tests what chooses among them; no GPU is needed.
cuda() {
    scripts/gpu/fetch-toolkit.sh &&
        cargo clippy -p ferrum-kernels -p ferrum-models -p ferrum-cli --features ferrum-kernels/cuda,ferrum-models/cuda,ferrum-cli/cuda --all-targets --quiet -- --deny warnings &&
        cargo test --quiet --package ferrum-kernels --features cuda --lib cuda::
}
# The CUDA backend's tests of small shapes, on an emulated GPU.
emulated() { scripts/gpu/fetch-toolkit.sh && scripts/gpu/emulated.sh --quick; }
e2e() { scripts/e2e.sh; }

# A cold build needs no incremental files, which only cost time and disk.
export CARGO_INCREMENTAL=0
export FERRUM_TEST_MODELS=${FERRUM_TEST_MODELS:-$PWD/.cache/models}
export FERRUM_BIN=$PWD/target/release/ferrum
rm -f "$log_dir"/*.log

stages=("${@:-all}")
wants() { [[ ${stages[0]} == all || " ${stages[*]} " == *" $1 "* ]]; }
# Kubernetes is built once, beside the stages before the one that needs it; that one waits for it and reports a failure.
if wants e2e && [[ -z ${KUBECONFIG:-} ]]; then
    nice e2e/cluster/cluster.py programs >"$log_dir/programs.txt" 2>&1 &
fi
stage models scripts/fetch-test-models.py
wants lint && stage lint lint
stage build build
wants rust && stage rust rust
wants openai && stage openai openai
wants cuda && stage cuda cuda
wants emulated && stage emulated emulated
wants e2e && stage e2e e2e

# The runners' own closing lines, then their sum.
printf '\n== closing lines\n'
cat "$log_dir"/*.log | grep -E '^test result: |^=+ .*(passed|failed|error).* =+$' | grep -v ' 0 passed; 0 failed' || true
count() { # WORD: sums "N WORD" over the closing lines of all runners
    cat "$log_dir"/*.log | grep -E '^test result: |^=+ .*(passed|failed|error).* =+$' |
        grep -oE "[0-9]+ $1" | awk '{sum += $1} END {print sum + 0}'
}
passed=$(count passed)
failed=$(($(count failed) + $(count 'errors?')))
printf '\n'
if ((${#failed_stages[@]})); then
    printf 'failed stages: %s\n' "${failed_stages[*]}"
    ((failed > 0)) || failed=${#failed_stages[@]}
fi
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0 && passed > 0))
