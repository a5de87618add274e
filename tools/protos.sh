#!/bin/bash
# Generates src/peerpods/protocols/*_pb2.py and .pyi from the .proto files beside them.
set -euo pipefail
cd "$(dirname "$0")/../src"
python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. peerpods/protocols/*.proto
