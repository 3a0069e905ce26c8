#!/usr/bin/env bash
# Encode four tiny images, twice, and look at the result: what a user does, in seconds, on a CPU.
#
#   smoke.sh BIN
#
# BIN is the folder of the commands (VENV/bin). Writes below a temporary folder only.
set -euo pipefail

bin=${1:?usage: smoke.sh BIN}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$bin/python" - "$folder/images" <<'PYTHON'
import sys
from pathlib import Path

from PIL import Image

for number, name in enumerate(("cats", "cats", "dogs", "dogs")):
    folder = Path(sys.argv[1]) / name
    folder.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").rotate(90 * number).resize((40, 30)).save(folder / f"{number}.png")
PYTHON
small=(--size 16 --num-gaussians 8 --steps 2 --workers 1)
"$bin/gvit-encode" "$folder/images" "$folder/first" "${small[@]}"
"$bin/gvit-encode" "$folder/images" "$folder/second" "${small[@]}" --engine inline
for path in "$folder"/first/*; do
    cmp "$path" "$folder/second/${path##*/}"
done
"$bin/gvit" status "$folder/first"
"$bin/gvit" info "$folder/first" --json
