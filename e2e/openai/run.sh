#!/usr/bin/env bash
# The official OpenAI client against `ferrum up` with real weights. Needs FERRUM_BIN and FERRUM_TEST_MODELS
# (set by `make test`).
set -euo pipefail
cd "$(dirname "$0")"

venv=../../.cache/venv-openai
if ! cmp -s requirements.txt "$venv/stamp"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --requirement requirements.txt
    cp requirements.txt "$venv/stamp"
fi
exec "$venv/bin/python" -m pytest -p no:cacheprovider "$@"
