#!/usr/bin/env bash
# From the start of the process to the first token, and what HTTP costs at 64 streams: run-gpu-serve.sh [SHAPE [FOLDER]].
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=scripts/gpu/environment.sh
source ./environment.sh
shape=${1:-qwen3-4b} folder=${2:-${TMPDIR:-/tmp}/ferrum-random}
[[ -f $folder/$shape/model.safetensors ]] || python3 random_checkpoint.py "$shape" "$folder/$shape"
cat "$folder/$shape/model.safetensors" >/dev/null # into the page cache
now() { date +%s.%N; }
since() { python3 -c "print(f'{$(now) - $1:.2f} s')"; }
address=$(mktemp -u)
start=$(now)
./ferrum serve "$folder/$shape" --served-name random --device cuda --port 0 --address-file "$address" --max-model-len 4096 \
    --max-num-seqs 64 --max-waiting 512 &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
until [[ -f $address ]]; do sleep 0.01; done
url=$(cat "$address")
until curl -sf "$url/health" >/dev/null; do
    kill -0 $server
    sleep 0.02
done
curl -sf "$url/v1/completions" -H 'Content-Type: application/json' \
    -d '{"model": "random", "prompt": "Hello", "max_tokens": 1}' >/dev/null
echo "process start to the first token over HTTP: $(since "$start")"
common=(--prompt-tokens 128 --output-tokens 256 --concurrency 64 --requests 256)
./ferrum bench random --endpoint "$url" "${common[@]}" --json >serve-http.json
kill -TERM $server
wait $server
trap - EXIT
./ferrum bench "$folder/$shape" --device cuda --max-model-len 4096 "${common[@]}" --json >serve-raw.json
python3 - <<'PY'
import json
http, raw = (json.load(open(f"serve-{name}.json"))["results"][0] for name in ("http", "raw"))
for name, figures in ("HTTP", http), ("raw", raw):
    print(name, {key: value for key, value in figures.items() if not isinstance(value, dict)})
for figure in "tokens_per_second", "decode_tokens_per_second":
    print(f"{figure}: HTTP {http[figure]:.0f}, engine alone {raw[figure]:.0f}: {http[figure] / raw[figure]:.3f}")
PY
