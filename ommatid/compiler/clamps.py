"""Relu and Clip behind an operator: clamps before a rounding are the same as clamps of the codes after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ommatid.compiler import tables, unary
from ommatid.compiler.layers import Step, Table
from ommatid.isa.program import Quantization

if TYPE_CHECKING:
    from ommatid.compiler.quantized import Walk


def strip_clamps(walk: Walk, value: ir.Value) -> tuple[list[ir.Node], ir.Value]:
    """The Relu and Clip nodes behind an operator's result (last first), and that result."""
    clamps: list[ir.Node] = []
    node = value.producer()
    while node is not None and node.op_type in ("Relu", "Clip") and value.name not in walk.deq:
        if any(walk.constant(v) is None for v in node.inputs[1:] if v is not None) or node.inputs[0] is None:
            break
        clamps.append(node)
        value = node.inputs[0]
        node = value.producer()
    return clamps, value


def clamp_steps(walk: Walk, clamps: list[ir.Node], quantization: Quantization) -> tuple[Step, ...]:
    """What is left of clamps once the codes of this quantisation are rounded: a table, or nothing."""
    if not clamps:
        return ()
    values = tables.real(tables.codes(quantization), quantization)
    for node in reversed(clamps):
        arguments: list[Any] = [values]
        for position, v in enumerate(node.inputs[1:], 1):
            constant = walk.constant(v)
            arguments.append(
                np.float64(constant.item())
                if constant is not None
                else np.float64(np.inf if position == 2 else -np.inf)
            )
        result = unary.apply(node, arguments)
        assert result is not None
        values = result
    table = tables.to_codes(values, quantization)
    return () if tables.changes_nothing(table) else (Table(table),)
