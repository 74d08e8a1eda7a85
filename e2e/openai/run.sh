#!/usr/bin/env bash
# The official OpenAI client against `ferrum up` with real weights. Needs FERRUM_BIN and FERRUM_TEST_MODELS
# (set by `make test`).
set -euo pipefail
cd "$(dirname "$0")"

./venv.sh
exec ../../.cache/venv-openai/bin/python -m pytest -p no:cacheprovider "$@"
