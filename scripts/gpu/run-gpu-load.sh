#!/usr/bin/env bash
# A server under load on this GPU, its KV cache full: run-gpu-load.sh [MINUTES [SHAPE [FOLDER]]] (default 10, qwen3-0.6b).
# Fails on an error, a hang, a block left behind or growing memory.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=scripts/gpu/environment.sh
source ./environment.sh
minutes=${1:-10} shape=${2:-qwen3-0.6b} folder=${3:-${TMPDIR:-/tmp}/ferrum-random}
[[ -f $folder/$shape/model.safetensors ]] || python3 random_checkpoint.py "$shape" "$folder/$shape"
address=$(mktemp -u)
# Room for about forty of the sequences: requests wait for blocks all the time.
./ferrum serve "$folder/$shape" --device cuda --port 0 --address-file "$address" --max-model-len 2048 --max-num-seqs 64 \
    --max-num-batched-tokens 2048 --kv-cache-memory 4Gi &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
for _ in $(seq 300); do
    kill -0 $server
    [[ -f $address ]] && curl -sf "$(cat "$address")/health" >/dev/null && break
    sleep 0.2
done
python3 load.py "$(cat "$address")" "$(python3 -c "print($minutes * 60)")" 96 $server
kill -TERM $server
wait $server
trap - EXIT
