#!/bin/bash
# Writes anew: requirements/*.txt (pins with hashes) from requirements/*.in, for Python 3.11 and later; the same pins for
# nix/; the package locks of the pod VM images below src/peerpods/image/locks.
set -euo pipefail
cd "$(dirname "$0")/../requirements"
scratch=$(mktemp -d); trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch"; "$scratch/bin/pip" -q install uv
for name in run guest dev; do
    "$scratch/bin/uv" pip compile -q --universal --python-version 3.11 --generate-hashes \
        --custom-compile-command "make lock" "$name.in" -o "$name.txt"
done
"$scratch/bin/python" ../tools/nix_wheels.py   # the same pins, file by file, for nix/
cd ..
make -s venv                                         # of the new pins
"$(make -s print-venv)/bin/python" -m peerpods.image lock   # Debian packages and wheels of the pod VM images
