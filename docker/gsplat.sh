#!/usr/bin/env bash
# Build gsplat's CUDA kernels once, for named GPU architectures, where every process will find them.
#
#   gsplat.sh PYTHON ARCHITECTURES EXTENSIONS
#
# ARCHITECTURES as in TORCH_CUDA_ARCH_LIST ("8.0;9.0"); EXTENSIONS is the folder that TORCH_EXTENSIONS_DIR
# names at run time. Needs nvcc. Without this the first process that renders on a GPU compiles for minutes,
# and several that start together wait for one lock.
# DRY_RUN=1 prints the commands instead.
set -euo pipefail
run() { if [[ ${DRY_RUN:-0} == 1 ]]; then echo "$*"; else "$@"; fi; }

python=${1:?usage: gsplat.sh PYTHON ARCHITECTURES EXTENSIONS}
export TORCH_CUDA_ARCH_LIST=${2:?usage: gsplat.sh PYTHON ARCHITECTURES EXTENSIONS}
export TORCH_EXTENSIONS_DIR=${3:?usage: gsplat.sh PYTHON ARCHITECTURES EXTENSIONS}
export MAX_JOBS=${MAX_JOBS:-4} # each takes up to 4 GB
run mkdir -p "$TORCH_EXTENSIONS_DIR"
run "$python" -c "from gsplat.cuda._backend import _C; assert _C is not None, 'gsplat found no nvcc'"
run chmod -R a+rX "$TORCH_EXTENSIONS_DIR"
