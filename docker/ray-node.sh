#!/usr/bin/env bash
# Run this container as a part of a Ray cluster until it is stopped.
#
#   ray-node.sh head|worker
#
# RAY_HEAD is host:port of the head (default head:6379). RAY_AUTH_TOKEN must be the same everywhere.
# DRY_RUN=1 prints the command instead.
set -euo pipefail
run() { if [[ ${DRY_RUN:-0} == 1 ]]; then echo "$*"; else exec "$@"; fi; }

head=${RAY_HEAD:-head:6379}
options=(--block --disable-usage-stats --object-store-memory 157286400)
[[ -n ${RAY_AUTH_TOKEN:-} ]] || { echo "ray-node.sh: set RAY_AUTH_TOKEN, the same on all nodes" >&2; exit 2; }
export RAY_AUTH_MODE=token
case ${1:-} in
    # The head keeps the books and runs the driver; it has no core to lend.
    head) run ray start --head --port "${head##*:}" --num-cpus 0 "${options[@]}" ;;
    worker) run ray start --address "$head" "${options[@]}" ;;
    *) echo "usage: ray-node.sh head|worker" >&2; exit 2 ;;
esac
