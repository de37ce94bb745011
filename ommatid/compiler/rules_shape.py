"""Rules that put tensors together or change their size: concat, pad, resize."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ommatid.compiler import unary
from ommatid.compiler.attributes import (
    image,
    integer,
    ints,
    shape_of,
    text,
)
from ommatid.compiler.broadcast import at_scale, joined, picked
from ommatid.compiler.layers import Concat, Pad, Resize, View
from ommatid.compiler.quantized import Made, Unsupported, Walk, default_order
from ommatid.isa.program import Quantization

Array = np.ndarray[Any, Any]


def concat(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """Concat along any axis; inputs of another scale go through a table."""
    rank = len(shape_of(node.outputs[0]))
    names = [
        at_scale(walk, v, out, f"{node.name}.{i}")
        if rank > 4 or walk.constant(v) is not None
        else walk.activation(v)
        for i, v in enumerate(node.inputs)
    ]
    order = default_order(rank) if len({walk.order(n) for n in names}) > 1 else walk.order(names[0])
    names = [walk.in_order(name, order) for name in names]
    if rank > 4:
        return Made(View(), (joined(walk, names, integer(node, "axis", 0) % rank),), order)
    axis = order.index(integer(node, "axis", 0) % rank)
    tables: list[Array | None] = []
    for name in names:
        quantization = walk.tensor(name).quantization
        table = unary.to_bytes(unary.real_values(quantization), out)
        tables.append(None if quantization == out else table)
    return Made(Concat(axis, tuple(tables)), tuple(names), order)


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
    info = np.iinfo(out.dtype)
    code = int(np.clip(np.rint(float(value.reshape(-1)[0]) / out.scale) + out.zero_point, info.min, info.max))
    return Made(Pad(tuple(max(begin[d], 0) for d in order), code & 255), (name,), order)


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
    """Resize of rows and columns, nearest or linear, in every coordinate mode but tf_crop_and_resize."""
    name, shape, order, size = image(walk, node)
    target = shape_of(node.outputs[0])
    mode = text(node, "mode", "nearest")
    coordinates = text(
        node, "coordinate_transformation_mode", "half_pixel" if node.op_type == "Resize" else "asymmetric"
    )
    if len(shape) != 4 or target[:2] != shape[:2]:
        raise Unsupported("only rows and columns")
    if (
        mode not in ("nearest", "linear")
        or coordinates == "tf_crop_and_resize"
        or integer(node, "antialias", 0)
    ):
        raise Unsupported(f"mode {mode}, {coordinates}")
    rounding = text(node, "nearest_mode", "round_prefer_floor" if node.op_type == "Resize" else "floor")
    scales = _resize_scales(walk, node, shape, target)
    tables = [
        _axis_table(n, m, s, mode, coordinates, rounding)
        for n, m, s in zip(size, target[2:], scales, strict=True)
    ]
    quantization = walk.tensor(name).quantization
    factor = np.float32(
        np.float64(np.float32(quantization.scale)) / (np.float64(np.float32(out.scale)) * 2.0**22)
    )
    return Made(Resize(tables[0], tables[1], 4 if mode == "linear" else 1, float(factor)), (name,), order)


def _resize_scales(walk: Walk, node: ir.Node, shape: Sequence[int], target: Sequence[int]) -> list[float]:
    at = 2 if node.op_type == "Resize" and len(node.inputs) > 2 else 1
    given = walk.constant(node.inputs[at]) if len(node.inputs) > at and node.inputs[at] is not None else None
    if given is not None and given.size == len(shape):
        return [float(v) for v in given.reshape(-1)[2:]]
    return [m / n for n, m in zip(shape[2:], target[2:], strict=True)]


def _axis_table(size: int, target: int, scale: float, mode: str, coordinates: str, rounding: str) -> Array:
    """uint16 [target, 4]: two input indices and their weights, which sum to 2048."""
    i = np.arange(target, dtype=np.float64)
    if coordinates == "asymmetric":
        x = i / scale
    elif coordinates == "align_corners":
        x = i * (size - 1) / (target - 1) if target > 1 else i * 0
    elif coordinates == "pytorch_half_pixel":
        x = (i + 0.5) / scale - 0.5 if target > 1 else i * 0
    elif coordinates == "half_pixel_symmetric":
        adjustment = target / (scale * size)
        x = size / 2 * (1 - adjustment) + (i + 0.5) / scale - 0.5
    else:
        x = (i + 0.5) / scale - 0.5
    if mode == "nearest":
        x = x.astype(np.float32).astype(np.float64)  # as onnxruntime computes it
        nearest = {
            "floor": np.floor(x), "ceil": np.ceil(x),
            "round_prefer_ceil": np.floor(x + 0.5), "round_prefer_floor": np.ceil(x - 0.5),
        }[rounding]  # fmt: skip
        index = np.clip(nearest, 0, size - 1)
        return np.stack([index, index, np.full(target, 2048), np.zeros(target)], axis=1).astype(np.uint16)
    x = np.clip(x, 0, size - 1)
    low = np.minimum(np.floor(x), size - 1)
    high = np.minimum(low + 1, size - 1)
    weight = np.rint((x - low) * 2048)
    return np.stack([low, high, 2048 - weight, weight], axis=1).astype(np.uint16)
