"""The ONNX standard's cases of single nodes."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

import onnx.backend.test.case.node as node_cases
from onnx.backend.test.case.node import _NodeTestCases as made  # as ONNX's own loader takes them


@functools.cache
def cases_of(op: str) -> tuple[Any, ...]:
    """The cases of an operator, with model and data.

    They are made when their modules are imported, which takes half a minute for all: only those that name it are.
    """
    for path in sorted(Path(next(iter(node_cases.__path__))).glob("*.py")):
        if f'"{op}"' in path.read_text(encoding="utf-8"):
            importlib.import_module(f"{node_cases.__name__}.{path.stem}")
    return tuple(case for case in made if [node.op_type for node in case.model.graph.node] == [op])
