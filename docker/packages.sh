#!/usr/bin/env bash
# Install system packages that a stage needs, and leave no package lists behind.
#
#   packages.sh PACKAGE...
#
# DRY_RUN=1 prints the commands instead.
set -euo pipefail
run() { if [[ ${DRY_RUN:-0} == 1 ]]; then echo "$*"; else "$@"; fi; }

[[ $# -gt 0 ]] || { echo "usage: packages.sh PACKAGE..." >&2; exit 2; }
export DEBIAN_FRONTEND=noninteractive
run apt-get update
run apt-get install --yes --no-install-recommends "$@"
run rm -rf /var/lib/apt/lists
