#!/bin/bash
# Called by podvm.pkr.hcl with a command of the engine: sets up what is missing, as `make image` does, and builds.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
make -s --no-print-directory -C "$top" venv >&2
exec "$(make -s --no-print-directory -C "$top" print-venv)/bin/python" -m peerpods.image "$@"
