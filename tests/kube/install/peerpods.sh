#!/bin/sh
# The command of this tree, whatever PATH says.
top=$(cd "$(dirname "$0")/../../.." && pwd)
PYTHONPATH=$top/src exec "$("$top/tools/venv.sh" --path)/bin/python" -m peerpods.cli.main "$@"
