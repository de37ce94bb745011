"""What rules read of an ONNX node: attributes, shapes, pads, its main input channels last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ommatid.compiler.errors import Unsupported
from ommatid.compiler.model import fixed_shape
from ommatid.compiler.quantized import Walk
from ommatid.isa.program import Quantization

Array = np.ndarray[Any, Any]


def ints(node: ir.Node, name: str, default: Sequence[int]) -> list[int]:
    """An attribute of integers."""
    return [int(v) for v in node.attributes[name].as_ints()] if name in node.attributes else list(default)


def integer(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute."""
    return int(node.attributes[name].as_int()) if name in node.attributes else default


def number(node: ir.Node, name: str, default: float) -> float:
    """A float attribute."""
    return float(node.attributes[name].as_float()) if name in node.attributes else default


def text(node: ir.Node, name: str, default: str) -> str:
    """A string attribute."""
    return node.attributes[name].as_string() if name in node.attributes else default


def shape_of(value: ir.Value | None) -> tuple[int, ...]:
    """A value's shape.

    Raises:
        Unsupported: it is not known.
    """
    shape = fixed_shape(value) if value is not None else None
    if shape is None:
        raise Unsupported("its shape is not known")
    return shape


def spatial_pads(
    node: ir.Node,
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[int, int, int, int]:
    """(top, left, bottom, right), from ``pads`` or ``auto_pad``."""
    mode = text(node, "auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        pads = ints(node, "pads", [0] * (2 * len(kernel)))
        half = len(pads) // 2
        begin, end = [0] * (2 - half) + pads[:half], [0] * (2 - half) + pads[half:]
        return begin[0], begin[1], end[0], end[1]
    if mode == "VALID":
        return 0, 0, 0, 0
    totals = []
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        totals.append(max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0))
    small = [t // 2 for t in totals]
    large = [t - t // 2 for t in totals]
    begin, end = (small, large) if mode == "SAME_UPPER" else (large, small)
    return begin[0], begin[1], end[0], end[1]


def two(values: Sequence[int]) -> tuple[int, int]:
    """(rows, columns) of an attribute of one or two dimensions."""
    values = [1] * (2 - len(values)) + [int(v) for v in values]
    return values[0], values[1]


def image_order(rank: int) -> tuple[int, ...]:
    """Channels last: rank 4 and, for sequences, rank 3."""
    if rank not in (3, 4):
        raise Unsupported(f"tensors of rank {rank} are not supported here")
    return (0, 2, 3, 1) if rank == 4 else (0, 2, 1)


def image(walk: Walk, node: ir.Node) -> tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, int]]:
    """The main input channels last: (tensor, ONNX shape, order, (rows, columns))."""
    name = walk.activation(node.inputs[0])
    shape = walk.tensor(name).onnx_shape
    order = image_order(len(shape))
    return walk.in_order(name, order), shape, order, two(shape[2:])


def middle(out: Quantization) -> tuple[int, str]:
    """Zero point and type of a value that a layer requantises to."""
    return out.zero_point, out.dtype


def ungrouped(weights: Array, group: int) -> Array:
    """Weights of a ConvTranspose [cin, cout / group, ...] as those of one group [cin, cout, ...]: zeros between
    channels of different groups."""
    cin, cout = weights.shape[0] // group, weights.shape[1]
    wide = np.zeros((weights.shape[0], cout * group, *weights.shape[2:]), weights.dtype)
    for g in range(group):
        wide[g * cin : (g + 1) * cin, g * cout : (g + 1) * cout] = weights[g * cin : (g + 1) * cin]
    return wide
