# shellcheck shell=bash
# What every script of the bundle begins with; to be sourced in its folder.
if [[ -f programs.tar.xz ]]; then # nothing has run yet
    python3 -m tarfile --extract programs.tar.xz . && rm programs.tar.xz
fi
# cuBLASLt and NCCL come with a CUDA installation, or with the Python packages nvidia-cublas and nvidia-nccl.
libraries=$(python3 -c 'import nvidia; print(":".join(f"{p}/{d}/lib" for p in nvidia.__path__ for d in ("cu13", "nccl")))' 2>/dev/null || true)
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}${libraries:+:$libraries}
