#!/bin/bash
# Writes requirements/*.txt (pins with hashes) anew from requirements/*.in, for Python 3.11 and later.
set -euo pipefail
cd "$(dirname "$0")/../requirements"
scratch=$(mktemp -d); trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch"; "$scratch/bin/pip" -q install uv
for name in run guest dev; do
    "$scratch/bin/uv" pip compile -q --universal --python-version 3.11 --generate-hashes \
        --custom-compile-command "make lock" "$name.in" -o "$name.txt"
done
"$scratch/bin/python" ../tools/nix_wheels.py   # the same pins, file by file, for nix/
