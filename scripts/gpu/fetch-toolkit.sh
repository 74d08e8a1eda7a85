#!/usr/bin/env bash
# nvcc and its headers from PyPI into .cache/cuda-toolkit, where kernels/build.rs looks for them. Nothing else of CUDA
# is needed to build: the driver and the libraries are loaded at run time.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=13.0
to=.cache/cuda-toolkit
if [[ -x $to/nvidia/cu13/bin/nvcc && -f $to/stamp && $(<"$to/stamp") == "$version" ]]; then
    exit 0
fi
echo "Fetching nvcc $version (300 MB)" >&2
rm -rf "$to"
packages=()
for name in nvidia-cuda-nvcc nvidia-cuda-runtime nvidia-cuda-cccl nvidia-nvvm nvidia-cuda-crt; do
    packages+=("$name==$version.*")
done
python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$to" "${packages[@]}"
"$to/nvidia/cu13/bin/nvcc" --version | tail -1 >&2
echo "$version" >"$to/stamp"
