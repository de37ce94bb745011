"""Rules of the vector engine: element-wise pairs, pooling, means, normalisation, softmax."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from ommatid.compiler.attributes import (
    image,
    integer,
    ints,
    middle,
    number,
    shape_of,
    spatial_pads,
    two,
)
from ommatid.compiler.layers import Binary, Lrn, Map, Mean, Pool, Softmax, Window
from ommatid.compiler.quantized import Made, Unsupported, Walk
from ommatid.isa.program import Quantization

Array = np.ndarray[Any, Any]


def add(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """Add or Sub of two activations, dimensions of 1 repeated (design 3.6)."""
    first, second, order = _pair(walk, node)
    a, b = walk.tensor(first).quantization, walk.tensor(second).quantization
    ra, rb = np.float32(a.scale) / np.float32(out.scale), np.float32(b.scale) / np.float32(out.scale)
    if node.op_type == "Sub":
        turned = walk.tensor(walk.activation(node.inputs[0])).onnx_shape != shape_of(node.outputs[0])
        ra, rb = (-ra, rb) if turned else (ra, -rb)
    inner = np.float64(ra) * a.zero_point + np.float64(np.float32(rb * np.float32(b.zero_point)))
    addend = np.float32(out.zero_point - np.float32(inner))
    step = Binary(
        "add",
        second,
        (a.zero_point, a.dtype),
        (b.zero_point, b.dtype),
        middle(out),
        float(ra),
        float(rb),
        float(addend),
    )
    return Made(Map(), (first,), order, (step,))


def mul(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """Mul of two activations, dimensions of 1 repeated."""
    first, second, order = _pair(walk, node)
    a, b = walk.tensor(first).quantization, walk.tensor(second).quantization
    factor = np.float32(np.float32(a.scale) * np.float32(b.scale)) / np.float32(out.scale)
    step = Binary(
        "mul", second, (a.zero_point, a.dtype), (b.zero_point, b.dtype), middle(out), float(factor), 0.0, 0.0
    )
    return Made(Map(), (first,), order, (step,))


def _pair(walk: Walk, node: ir.Node) -> tuple[str, str, tuple[int, ...]]:
    """Both operands in one memory order, the one of full size first."""
    if len(node.inputs) != 2:
        raise Unsupported(f"{len(node.inputs)} operands")
    names = [walk.activation(v) for v in node.inputs]
    result = shape_of(node.outputs[0])
    shapes = [walk.tensor(name).onnx_shape for name in names]
    if len(shapes[0]) != len(shapes[1]) or result not in shapes or len(result) > 4:
        raise Unsupported(f"operands of shapes {shapes[0]} and {shapes[1]}")
    if shapes[0] != result:
        names.reverse()
    order = walk.order(names[0])
    names = [walk.in_order(name, order) for name in names]
    memory = [walk.tensor(name).shape for name in names]
    if any(b not in (1, a) for a, b in zip(*memory, strict=True)):
        raise Unsupported(f"operands of shapes {shapes[0]} and {shapes[1]}")
    return names[0], names[1], order


def pool(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """MaxPool (without indices) and AveragePool."""
    name, shape, order, size = image(walk, node)
    rank = len(shape) - 2
    kernel, strides = two(ints(node, "kernel_shape", [1])), two(ints(node, "strides", [1] * rank))
    dilations = two(ints(node, "dilations", [1] * rank))
    pads = spatial_pads(node, size, kernel, strides, dilations)
    window = Window(kernel, strides, dilations, pads)
    quantization = walk.tensor(name).quantization
    if node.op_type == "MaxPool":
        if len(node.outputs) > 1 and node.outputs[1].uses():
            raise Unsupported("indices are not computed")
        if quantization != out:
            raise Unsupported("input and output of MaxPool have different scales")
        return Made(Pool("max", window), (name,), order)
    counted = bool(integer(node, "count_include_pad", 0)) and any(pads)
    if counted and integer(node, "ceil_mode", 0):
        raise Unsupported("count_include_pad with ceil_mode")
    factor = float(np.float32(quantization.scale) / np.float32(out.scale))
    return Made(Pool("average", window, counted, factor), (name,), order)


def mean(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """GlobalAveragePool, and ReduceMean over rows and columns."""
    name, shape, order, size = image(walk, node)
    if len(shape) != 4:
        raise Unsupported("only images")
    if node.op_type == "ReduceMean":
        axes = _axes(walk, node, len(shape))
        if axes != [2, 3]:
            raise Unsupported("only axes 2 and 3")
        if not integer(node, "keepdims", 1):
            order = (0, 1)
    if size[0] * size[1] * 255 >= 2**31:
        raise Unsupported("the sum could overflow")
    scale = np.float32(walk.tensor(name).quantization.scale)
    factor = np.float64(scale) / (np.float64(size[0] * size[1]) * np.float64(np.float32(out.scale)))
    return Made(Mean(float(np.float32(factor)), middle(out)), (name,), order)


def _axes(walk: Walk, node: ir.Node, rank: int) -> list[int]:
    if "axes" in node.attributes:
        axes = ints(node, "axes", [])
    else:
        given = walk.constant(node.inputs[1]) if len(node.inputs) > 1 else None
        axes = list(range(rank)) if given is None else [int(v) for v in given.reshape(-1)]
    return sorted(a % rank for a in axes)


def lrn(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """LRN with beta = 0.75."""
    name, _, order, _ = image(walk, node)
    if number(node, "beta", 0.75) != 0.75:
        raise Unsupported("only beta = 0.75")
    scale = walk.tensor(name).quantization.scale
    size = integer(node, "size", 1)
    alpha = number(node, "alpha", 1e-4) / size * scale * scale
    operation = Lrn(
        size,
        float(np.float32(alpha)),
        float(np.float32(number(node, "bias", 1.0))),
        float(np.float32(scale) / np.float32(out.scale)),
    )
    return Made(operation, (name,), order)


def softmax(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """Softmax over any one axis (from opset 13 on, or over the last)."""
    name = walk.activation(node.inputs[0])
    shape = walk.tensor(name).onnx_shape
    rank, version = len(shape), walk.model.graph.opset_imports.get("", 13)
    axis = integer(node, "axis", -1 if version >= 13 else 1) % rank
    if version < 13 and math.prod(shape[axis + 1 :]) != 1:
        raise Unsupported("before opset 13 it runs over several axes at once")
    order = walk.order(name)
    if order[-1] != axis:
        order = (*(d for d in order if d != axis), axis)
    if rank > 4 or shape[axis] > 65535:
        raise Unsupported(f"shape {shape}")
    scale = float(np.float32(walk.tensor(name).quantization.scale))
    table = np.array([round(math.exp(-i * scale) * 2.0**31) for i in range(256)], np.uint64).astype(np.uint32)
    return Made(
        Softmax(table, float(np.float32(1) / np.float32(out.scale))), (walk.in_order(name, order),), order
    )
