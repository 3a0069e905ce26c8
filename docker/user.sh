#!/usr/bin/env bash
# Make the user that everything runs as, and the folders that it may write to.
#
#   user.sh NAME UID FOLDER...
#
# DRY_RUN=1 prints the commands instead.
set -euo pipefail
run() { if [[ ${DRY_RUN:-0} == 1 ]]; then echo "$*"; else "$@"; fi; }

name=${1:?usage: user.sh NAME UID FOLDER...}
uid=${2:?usage: user.sh NAME UID FOLDER...}
shift 2
run useradd --create-home --uid "$uid" --shell /bin/bash "$name"
for folder in "$@"; do
    run install --directory --owner "$name" --group "$name" "$folder"
done
