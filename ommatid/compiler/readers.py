"""What the readers of a tensor still tell apart of its values."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from ommatid.compiler import unary
from ommatid.compiler.ranges import as_it_is
from ommatid.compiler.rounding import is_unary

Array = np.ndarray[Any, Any]

#: Sigmoid is within half a step of 1/256 of 0 or 1 beyond this.
SIGMOID_LIMIT = 6.3


def limits(value: ir.Value) -> tuple[float, float]:
    """Below the first number and above the second the only reader's result does not change, or hardly."""
    node = _only_reader(value)
    if node is None or node.domain not in ("", "ai.onnx"):
        return -math.inf, math.inf
    if node.op_type == "Relu":
        return 0.0, math.inf
    if node.op_type == "HardSwish":
        return -3.0, math.inf
    if node.op_type == "Sigmoid":
        return -SIGMOID_LIMIT, SIGMOID_LIMIT
    if node.op_type == "HardSigmoid":
        alpha, beta = (
            float(node.attributes[name].as_float()) if name in node.attributes else default
            for name, default in (("alpha", 0.2), ("beta", 0.5))
        )
        return (-beta / alpha, (1 - beta) / alpha) if alpha > 0 else (-math.inf, math.inf)
    return -math.inf, math.inf


def rectified(model: ir.Model) -> dict[str, str]:
    """Tensors that a Relu alone reads, and what it, or the last of several, makes of them: they are clamped to that."""
    found: dict[str, str] = {}
    for node in reversed(model.graph):
        value = node.inputs[0] if node.op_type == "Relu" and node.domain in ("", "ai.onnx") else None
        if value is not None and _only_reader(value) is node:
            result = node.outputs[0].name or ""
            found[value.name or ""] = found.get(result, result)
    return found


def views(value: ir.Value) -> list[Callable[[Array], Array]]:
    """A function of the values for each kind of reader: that of one value which it is, or the values themselves."""
    found: dict[str, Callable[[Array], Array]] = {}
    for use in value.uses():
        if is_unary(use.node):
            found.setdefault(use.node.name or "", partial(_applied, use.node, value))
        else:
            found.setdefault("", as_it_is)
    if value.is_graph_output():
        found.setdefault("", as_it_is)
    return list(found.values())


def _applied(node: ir.Node, value: ir.Value, x: Array) -> Array:
    arguments: list[Any] = []
    for v in node.inputs:
        if v is value:
            arguments.append(x)
        elif v is not None and v.const_value is not None:
            arguments.append(np.float64(v.const_value.numpy().item()))
    result = unary.apply(node, arguments)
    return x if result is None or not np.isfinite(result).all() else result


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = tuple(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None
