"""Rules that put tensors together or change their size: concat, pad, resize."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from ommatid.compiler import tables
from ommatid.compiler.attributes import image, integer, ints, number, shape_of, text
from ommatid.compiler.broadcast import at_scale, joined, picked
from ommatid.compiler.errors import Unsupported
from ommatid.compiler.interpolation import (
    WHOLE,
    axes_of,
    coordinates_of,
    inside,
    linear_table,
    nearest_table,
    positions,
)
from ommatid.compiler.layers import Concat, Layer, Pad, Resize, View
from ommatid.compiler.quantized import Made, Walk, default_order
from ommatid.isa.program import Quantization

Array = np.ndarray[Any, Any]


def concat(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """Concat along any axis; inputs of another scale go through a table."""
    rank = len(shape_of(node.outputs[0]))
    names = [
        at_scale(walk, v, out, f"{node.name}.{i}")
        if rank > 4 or walk.constant(v) is not None or _wide(walk, v, out)
        else walk.activation(v)
        for i, v in enumerate(node.inputs)
    ]
    order = default_order(rank) if len({walk.order(n) for n in names}) > 1 else walk.order(names[0])
    names = [walk.in_order(name, order) for name in names]
    if rank > 4:
        return Made(View(), (joined(walk, names, integer(node, "axis", 0) % rank),), order)
    axis = order.index(integer(node, "axis", 0) % rank)
    of_each: list[Array | None] = []
    for name in names:
        given = walk.tensor(name).quantization
        table = tables.to_codes(tables.real(tables.codes(given), given), out)
        of_each.append(None if given == out else table)
    return Made(Concat(axis, tuple(of_each)), tuple(names), order)


def _wide(walk: Walk, value: ir.Value | None, out: Quantization) -> bool:
    """Whether either has 16 bits: no table leads to the other scale in place."""
    return 2 in (walk.tensor(walk.activation(value)).quantization.kind.bytes, out.kind.bytes)


#: Which element stands at place i of an axis of n elements, outside it, by the mode of Pad.
OUTSIDE: dict[str, Callable[[int, int], int]] = {
    "edge": lambda i, n: min(max(i, 0), n - 1),
    "wrap": lambda i, n: i % n,
    "reflect": lambda i, n: n - 1 - abs(n - 1 - i % (2 * n - 2)) if n > 1 else 0,
}


def pad(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """Pad in every mode with constant pads, also negative ones; a value that the output's scale can hold."""
    name, mode = at_scale(walk, node.inputs[0], out, node.name or ""), text(node, "mode", "constant")
    begin, end = _pads(walk, node, len(walk.tensor(name).onnx_shape))
    for axis, (b, e) in enumerate(zip(begin, end, strict=True)):
        size = walk.tensor(name).onnx_shape[axis]
        outside = OUTSIDE.get(mode)
        places = range(max(-b, 0), size - max(-e, 0)) if outside is None else range(-b, size + e)
        name = picked(walk, name, axis, [i if outside is None else outside(i, size) for i in places])
    order = walk.order(name)
    if mode != "constant":
        return Made(View(), (name,), order)
    if len(order) > 4:
        raise Unsupported("constant padding of more than four dimensions")
    value = (
        walk.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(1)
    )
    if value is None:
        raise Unsupported("the value is not constant")
    code = code_of(float(value.reshape(-1)[0]), out)
    return Made(Pad(tuple(max(begin[d], 0) for d in order), code), (name,), order)


def code_of(value: float, out: Quantization) -> int:
    """The code that stands for a number, or for the nearest one that the scale can hold."""
    return int(np.clip(np.rint(value / out.scale) + out.zero_point, out.kind.low, out.kind.high))


def _pads(walk: Walk, node: ir.Node, rank: int) -> tuple[list[int], list[int]]:
    """Elements before and behind, of every axis."""
    given = walk.constant(node.inputs[1]) if len(node.inputs) > 1 else np.array(ints(node, "pads", []))
    chosen = (
        walk.constant(node.inputs[3])
        if len(node.inputs) > 3 and node.inputs[3] is not None
        else np.arange(rank)
    )
    if given is None or chosen is None:
        raise Unsupported("its pads are not constant")
    begin, end = [0] * rank, [0] * rank
    for i, axis in enumerate(chosen.tolist()):
        begin[axis % rank], end[axis % rank] = int(given[i]), int(given[i + len(chosen)])
    return begin, end


def resize(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """Resize of rows and columns, nearest or linear, also of a crop; of a float model also cubic and against aliasing."""
    name, shape, order, _ = image(walk, node)
    target = shape_of(node.outputs[0])
    mode, coordinates = text(node, "mode", "nearest"), coordinates_of(node)
    if len(shape) != 4 or target[:2] != shape[:2]:
        raise Unsupported("only rows and columns")
    if mode not in ("nearest", "linear") or (mode == "linear" and integer(node, "antialias", 0)):
        raise Unsupported(f"mode {mode}, {coordinates}")
    axes = axes_of(node, shape, target, walk.constant)[2:]
    places = [positions(axis, coordinates) for axis in axes]
    kept = [inside(x, axis, coordinates) for x, axis in zip(places, axes, strict=True)]
    if any(part.start == part.stop for part in kept):
        raise Unsupported("its crop lies outside the image")
    rounding = text(node, "nearest_mode", "round_prefer_floor" if node.op_type == "Resize" else "floor")
    rows, columns = (
        nearest_table(x[part], axis.size, rounding) if mode == "nearest" else linear_table(x[part], axis.size)
        for x, part, axis in zip(places, kept, axes, strict=True)
    )
    scale = np.float64(np.float32(walk.tensor(name).quantization.scale))
    factor = np.float32(scale / (np.float64(np.float32(out.scale)) * WHOLE**2))
    operation = Resize(rows, columns, 4 if mode == "linear" else 1, float(factor))
    if [len(rows), len(columns)] == list(target[2:]):
        return Made(operation, (name,), order)
    part = walk.declare(f"{node.name}@inside", (*shape[:2], len(rows), len(columns)), order, out)
    walk.add(Layer(part, node.op_type, (node.name or "",), operation, (name,), part))
    value = code_of(number(node, "extrapolation_value", 0.0), out)
    return Made(Pad((0, kept[0].start, kept[1].start, 0), value), (part,), order)
