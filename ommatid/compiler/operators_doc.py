"""Writes ``docs/operators.md`` from the operator table: ``python -m ommatid.compiler.operators_doc docs``."""

from __future__ import annotations

import sys
from pathlib import Path

from ommatid.compiler.operators import table

HEAD = """# Operators

Written by `make docs` from `ommatid/compiler/operators.py`. What is not listed, and what a rule refuses, runs on
the CPU through ONNX Runtime with its reason (`ommatid check` shows both). Weights are int8, activations int8,
uint8 or int16; both must be quantised (ommatid does it if the model is not).

| operator | placement | rule |
|---|---|---|
"""


def document() -> str:
    """The page's text."""
    return HEAD + "".join(f"| {op} | {placement} | {rule} |\n" for op, placement, rule in table())


if __name__ == "__main__":
    (Path(sys.argv[1]) / "operators.md").write_text(document(), encoding="utf-8")
