"""Rules of the vector engine: element-wise pairs, pooling, means, normalisation, softmax."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from ommatid.compiler import tables
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
from ommatid.compiler.broadcast import (
    at_scale,
    collapsed,
    of_rank,
    repeated,
    rescaled,
    seen_as,
    through_table,
)
from ommatid.compiler.errors import Unsupported
from ommatid.compiler.layers import Binary, Layer, Lrn, Map, Pool, Softmax, View, Window
from ommatid.compiler.quantized import TRUTH, Made, Walk
from ommatid.compiler.regions import evaluate, root_of
from ommatid.isa.program import Quantization

Array = np.ndarray[Any, Any]


def add(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """Add or Sub of two activations, dimensions of 1 repeated (design 3.6)."""
    first, second, order, turned = _pair(walk, node)
    a, b = walk.tensor(first).quantization, walk.tensor(second).quantization
    ra, rb = np.float32(a.scale) / np.float32(out.scale), np.float32(b.scale) / np.float32(out.scale)
    if node.op_type == "Sub":
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
    return _elementwise(walk, node, out, first, order, step)


def mul(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """Mul of two activations, dimensions of 1 repeated."""
    first, second, order, _ = _pair(walk, node)
    a, b = walk.tensor(first).quantization, walk.tensor(second).quantization
    factor = np.float32(np.float32(a.scale) * np.float32(b.scale)) / np.float32(out.scale)
    step = Binary(
        "mul", second, (a.zero_point, a.dtype), (b.zero_point, b.dtype), middle(out), float(factor), 0.0, 0.0
    )
    return _elementwise(walk, node, out, first, order, step)


def _pair(walk: Walk, node: ir.Node) -> tuple[str, str, tuple[int, ...], bool]:
    """Both operands in one memory order, the one of full size first, and whether that is the second."""
    if len(node.inputs) != 2:
        raise Unsupported(f"{len(node.inputs)} operands")
    result = shape_of(node.outputs[0])
    names = [of_rank(walk, walk.activation(v), len(result)) for v in node.inputs]
    full = [walk.tensor(name).onnx_shape == result for name in names]
    if not any(full):
        names[0] = repeated(walk, names[0], result)
    turned = full[1] and (not full[0] or names[0] in walk.constants)
    if turned:
        names.reverse()
    order = walk.order(names[0])
    names[1] = walk.in_order(names[1], order)
    if len(order) > 4:
        names = list(collapsed(walk, names[0], names[1]))
    return names[0], names[1], order, turned


def _elementwise(
    walk: Walk, node: ir.Node, out: Quantization, first: str, order: tuple[int, ...], step: Binary
) -> Made:
    """One pass over ``first``, whose dimensions may have been made fewer."""
    shape = walk.tensor(first).onnx_shape
    if len(shape) == len(order):
        return Made(Map(), (first,), order, (step,))
    return seen_as(walk, node, out, Map(), first, shape, order, (step,))


def where(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """Where, its condition constant or a comparison of one activation with numbers: products by 0 and 1, and a sum."""
    result, label = shape_of(node.outputs[0]), node.name or ""
    if len(result) > 4:
        raise Unsupported(f"a result of rank {len(result)}")
    parts = []
    for i, value in enumerate(node.inputs[1:]):
        parts.append(of_rank(walk, at_scale(walk, value, out, f"{label}.{i}"), len(result)))
    order = walk.order(next((n for n in parts if walk.tensor(n).onnx_shape == result), parts[0]))
    kept = []
    for i, name in enumerate(parts):
        mask = walk.in_order(of_rank(walk, _mask(walk, node, bool(i)), len(result)), order)
        name = walk.in_order(repeated(walk, name, result), order)
        chosen = walk.declare(f"{label}@{i}", result, order, out)
        step = Binary("mul", mask, middle(out), (0, "uint8"), middle(out), 1.0, 0.0, 0.0)
        walk.add(Layer(chosen, node.op_type, (label,), Map(), (name,), chosen, (step,)))
        kept.append(chosen)
    zero = float(-out.zero_point)
    both = Binary("add", kept[1], middle(out), middle(out), middle(out), 1.0, 1.0, zero)
    return Made(Map(), (kept[0],), order, (both,))


def _mask(walk: Walk, node: ir.Node, turned: bool) -> str:
    """A tensor of ones where a Where takes its first value (``turned``: its second), of zeros elsewhere."""
    condition = node.inputs[0]
    assert condition is not None
    constant = walk.constant(condition)
    label = f"{node.name}@mask{int(turned)}"
    if constant is not None:
        return walk.declare_constant(label, (constant.astype(np.bool_) ^ turned).astype(np.uint8), TRUTH)
    root = root_of(walk, condition, [])
    if root is None:
        raise Unsupported("its condition is neither constant nor a comparison of one activation with numbers")
    quantization = walk.tensor(root).quantization
    found = evaluate(walk, condition, tables.codes(quantization))
    if found is None or quantization.kind.bytes == 2:
        raise Unsupported("its condition is a comparison of 16-bit numbers, which no table holds")
    table = ((found != 0) ^ turned).astype(np.uint8)
    return through_table(walk, root, table, TRUTH, label)


def pool(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """MaxPool (without indices) and AveragePool; of a float model also in three dimensions."""
    name, shape, order, size = image(walk, node)
    rank = len(shape) - 2
    kernel, strides = two(ints(node, "kernel_shape", [1])), two(ints(node, "strides", [1] * rank))
    dilations = two(ints(node, "dilations", [1] * rank))
    pads = spatial_pads(node, size, kernel, strides, dilations)
    window = Window(kernel, strides, dilations, pads)
    quantization = walk.tensor(name).quantization
    if node.op_type == "MaxPool":
        if quantization == out:
            return Made(Pool("max", window), (name,), order)
        pooled, label = f"{node.name}@pooled", node.name or ""
        walk.declare(pooled, shape_of(node.outputs[0]), order, quantization)
        walk.add(Layer(pooled, node.op_type, (label,), Pool("max", window), (name,), pooled))
        return rescaled(walk, node, Made(View(), (pooled,), order), out)
    counted = bool(integer(node, "count_include_pad", 0)) and any(pads)
    if counted and integer(node, "ceil_mode", 0):
        raise Unsupported("count_include_pad with ceil_mode")
    factor = float(np.float32(quantization.scale) / np.float32(out.scale))
    return Made(Pool("average", window, counted, factor), (name,), order)


def lrn(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """LRN with beta = 0.75; of a float model with any."""
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
    if shape[axis] > 65535:
        raise Unsupported(f"shape {shape}")
    table = _exponentials(walk.tensor(name).quantization)
    return Made(
        Softmax(table, float(np.float32(1) / np.float32(out.scale))), (walk.in_order(name, order),), order
    )


def _exponentials(quantization: Quantization) -> Array:
    """uint32 exponentials of 0, -1, ... -255 steps; of 16 bits, before them those of 0, -256, ... -65280 steps."""
    scale = float(np.float32(quantization.scale))
    steps, unit = list(range(256)), 2.0**31
    if quantization.kind.bytes == 2:
        steps, unit = [*range(0, 65536, 256), *steps], 2.0**32 - 1
    return np.array([round(math.exp(-i * scale) * unit) for i in steps], np.uint64).astype(np.uint32)
