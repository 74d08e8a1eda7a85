#!/usr/bin/env bash
# Ferrum against llama.cpp on this CPU: same GGUF file, same threads, alternating in one run.
# Builds the peer once (about 7 minutes on 2 cores) into .cache/venv-llama-cpp. Writes target/bench-cpu.json and a table.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.3.36
venv=.cache/venv-llama-cpp

# The peer gets every instruction set of this CPU but AMX: its AMX kernels crash on some virtual machines.
flags="-DGGML_NATIVE=OFF"
add() { # CPUINFO_FLAG GGML_OPTION
    if grep -qw "$1" /proc/cpuinfo; then flags+=" -D$2=ON"; fi
}
add sse4_2 GGML_SSE42
add avx GGML_AVX
add avx2 GGML_AVX2
add bmi2 GGML_BMI2
add fma GGML_FMA
add f16c GGML_F16C
add avx512f GGML_AVX512
add avx512_vnni GGML_AVX512_VNNI
add avx512_bf16 GGML_AVX512_BF16
add avx512vbmi GGML_AVX512_VBMI
add avx_vnni GGML_AVX_VNNI

stamp="$version $flags"
if [[ ! -f $venv/stamp || $(<"$venv/stamp") != "$stamp" ]]; then
    echo "Building llama.cpp (llama-cpp-python $version, $flags): about 7 minutes, once" >&2
    rm -rf "$venv"
    python3 -m venv "$venv"
    CMAKE_ARGS=$flags "$venv/bin/pip" install --quiet "llama-cpp-python==$version"
    echo "$stamp" >"$venv/stamp"
fi

scripts/fetch-test-models.py --only smollm2-gguf
cargo build --release -p ferrum-cli
model=.cache/models/SmolLM2-135M-Instruct.Q4_1.gguf
"$venv/bin/python" scripts/bench_cpu.py --ferrum target/release/ferrum --model "$model" --json target/bench-cpu.json "$@"
echo >&2
echo "This machine's limits (what the kernels can reach at most): make bench-kernels" >&2
