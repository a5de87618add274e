"""Holds the shape of the code: modules of at most 600 lines, the median below 150, functions of at most 60 lines."""

from __future__ import annotations

import ast
import statistics
import sys
from pathlib import Path

MODULE_MAX, MODULE_MEDIAN, FUNCTION_MAX = 600, 150, 60


def main() -> int:
    """Print each breach; 1 when there is one."""
    lengths, faults = [], []
    for path in sorted(Path("src").rglob("*.py")):
        if path.name.endswith("_pb2.py"):
            continue
        text = path.read_text()
        lines = text.count("\n")
        if lines > 3:
            lengths.append(lines)
        if lines > MODULE_MAX:
            faults.append(f"{path}: {lines} lines, at most {MODULE_MAX}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                if size > FUNCTION_MAX:
                    faults.append(f"{path}:{node.lineno}: {node.name} has {size} lines, at most {FUNCTION_MAX}")
    median = statistics.median(lengths)
    if median > MODULE_MEDIAN:
        faults.append(f"the median module has {median:g} lines, at most {MODULE_MEDIAN}")
    for fault in faults:
        print(fault)
    print(f"shape: {len(lengths)} modules, median {median:g} lines, longest {max(lengths)}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
