#!/usr/bin/env bash
# Installs the official client into an ignored folder, once for each version of requirements.txt.
set -euo pipefail
cd "$(dirname "$0")"

venv=../../.cache/venv-openai
if ! cmp -s requirements.txt "$venv/stamp"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --requirement requirements.txt
    cp requirements.txt "$venv/stamp"
fi
