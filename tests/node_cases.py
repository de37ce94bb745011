"""The ONNX standard's cases of single nodes, made when their modules are imported: all of them take half a minute."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

import onnx.backend.test.case.node as node_cases
from onnx.backend.test.case.node import _NodeTestCases as made  # as ONNX's own loader takes them

#: Modules that make cases.
PATHS = sorted(
    path for folder in node_cases.__path__ for path in Path(folder).rglob("*.py") if path.stem != "__init__"
)


@functools.cache
def cases_in(path: Path) -> tuple[Any, ...]:
    """The cases that a module makes, with model and data."""
    before = len(made)
    parts = path.relative_to(Path(next(iter(node_cases.__path__)))).with_suffix("").parts
    importlib.import_module(".".join((node_cases.__name__, *parts)))
    return tuple(made[before:])


@functools.cache
def cases_of(op: str) -> tuple[Any, ...]:
    """The cases of an operator, of the modules that name it, whatever else was imported before."""
    named = [path for path in PATHS if f'"{op}"' in path.read_text(encoding="utf-8")]
    cases = (case for path in named for case in cases_in(path))
    return tuple(case for case in cases if [node.op_type for node in case.model.graph.node] == [op])
