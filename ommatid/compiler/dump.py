"""``OMMATID_DUMP=folder``: the state after every pass as text, numbered in order."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from ommatid.compiler.schedule import Scheduled


def dump(name: str, text: Callable[[], str]) -> None:
    """Write the text of a pass, if a folder is named; it is made only then."""
    folder = os.environ.get("OMMATID_DUMP")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        count = len(list(Path(folder).glob("*.txt")))
        (Path(folder) / f"{count:02d}-{name}.txt").write_text(text(), encoding="utf-8")


def graph_text(model: ir.Model) -> str:
    """An ONNX graph, one line a node; constants by name and shape."""
    lines = [f"input {_value(v)}" for v in model.graph.inputs]
    for node in model.graph:
        inputs = ", ".join("" if v is None else _argument(v) for v in node.inputs)
        attributes = "".join(
            f" {name}={attribute.value}" for name, attribute in sorted(node.attributes.items())
        )
        outputs = ", ".join(_value(v) for v in node.outputs)
        lines.append(f"{outputs} = {node.op_type}({inputs}){attributes}  # {node.name}")
    return "\n".join([*lines, *(f"output {_value(v)}" for v in model.graph.outputs)]) + "\n"


def _value(value: ir.Value) -> str:
    shape = "?" if value.shape is None else "x".join(map(str, value.shape))
    return f"{value.name}[{shape}]"


def _argument(value: ir.Value) -> str:
    if value.const_value is None:
        return value.name or ""
    if value.const_value.size != 1:
        return f"const {_value(value)}"
    return f"{value.const_value.numpy().item():.4g}"


def schedule_text(plan: Scheduled) -> str:
    """Where each tensor lies and from which to before which instruction, in order."""
    rows = [
        f"{p.tensor.name}: {'DRAM' if p.memory == 0 else 'SRAM'} symbol {p.symbol} + {p.address}, strides "
        f"{'x'.join(map(str, p.strides))}, instructions {p.ready} to {p.until}"
        for p in plan.placed
    ]
    return "\n".join(rows) + "\n"
