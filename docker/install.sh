#!/usr/bin/env bash
# Install gvit and what it depends on into a virtual environment of its own.
#
#   install.sh SOURCE VENV cpu|cuda [CONSTRAINTS]
#
# SOURCE is a checkout; CONSTRAINTS a file of exact versions (pip freeze of an environment that works).
# DRY_RUN=1 prints the commands instead.
set -euo pipefail
run() { if [[ ${DRY_RUN:-0} == 1 ]]; then echo "$*"; else "$@"; fi; }

source_folder=${1:?usage: install.sh SOURCE VENV cpu|cuda [CONSTRAINTS]}
venv=${2:?usage: install.sh SOURCE VENV cpu|cuda [CONSTRAINTS]}
kind=${3:?usage: install.sh SOURCE VENV cpu|cuda [CONSTRAINTS]}
constraints=${4:-}
options=(--no-cache-dir)
case $kind in
    cpu) index=(--index-url https://download.pytorch.org/whl/cpu) ;;
    cuda) index=() ;; # the wheels of PyPI bring their own CUDA libraries
    *) echo "install.sh: $kind is neither cpu nor cuda" >&2; exit 2 ;;
esac
if [[ -n $constraints ]]; then
    [[ -f $constraints ]] || { echo "install.sh: there is no file $constraints" >&2; exit 2; }
    options+=(--constraint "$constraints")
fi

run python3 -m venv "$venv"
# torch first: the CPU build comes from its own index, and nothing else does.
run "$venv/bin/pip" install "${options[@]}" "${index[@]}" torch torchvision
run "$venv/bin/pip" install "${options[@]}" "${source_folder}[all]"
