"""Rules that make many elements one: sums and means over any axes, greatest and least, also of several tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ommatid.compiler.attributes import integer, ints, middle, shape_of
from ommatid.compiler.broadcast import (
    at_scale,
    contiguous,
    joined,
    of_rank,
    repeated,
    rescaled,
    seen_as,
    turned,
    volume,
)
from ommatid.compiler.errors import Unsupported
from ommatid.compiler.layers import Conv, Mean, Pool, Window
from ommatid.compiler.quantized import Made, Walk
from ommatid.isa.program import Quantization

#: Elements along one dimension of a window, or along K (fields of 16 bits).
MOST = 65535


@dataclass(frozen=True)
class Reduction:
    """``name`` seen as [before, reduced, after] (elements), and the memory order of the result's dimensions."""

    name: str
    before: int
    reduced: int
    after: int
    order: tuple[int, ...]


def sum_or_mean(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """GlobalAveragePool, ReduceMean and ReduceSum over any axes."""
    name = walk.activation(node.inputs[0])
    axes = reduced_axes(walk, node, len(walk.tensor(name).onnx_shape))
    seen = _arrange(walk, node, name, axes, free_last=True)
    kind = walk.tensor(name).quantization.kind
    if seen.reduced * (kind.high - kind.low) >= 2**31:
        raise Unsupported("the sum could overflow")
    count = 1 if node.op_type == "ReduceSum" else seen.reduced
    scale = np.float32(walk.tensor(name).quantization.scale)
    factor = np.float32(np.float64(scale) / (np.float64(count) * np.float64(np.float32(out.scale))))
    if seen.after > 1:
        shape = walk.tensor(seen.name).shape
        operation = Mean(float(factor), middle(out))
        if len(shape) == 4 and (shape[0], shape[3]) == (seen.before, seen.after):
            return Made(operation, (seen.name,), seen.order)
        whole, result = (seen.before, seen.reduced, 1, seen.after), (seen.before, 1, 1, seen.after)
        return seen_as(walk, node, out, operation, seen.name, whole, seen.order, (), result)
    if seen.reduced > MOST or seen.before > MOST:
        raise Unsupported(f"sums of {seen.reduced} elements, {seen.before} of them (at most {MOST})")
    ones = np.ones((1, 1, 1, seen.reduced), np.int8)
    sums = Conv(ones, np.zeros(1, np.int32), np.array([factor]), Window((1, 1)), 1, middle(out))
    rows = (1, seen.before, seen.reduced)
    return seen_as(
        walk, node, out, sums, seen.name, rows, seen.order, (), (1, seen.before, 1), math.prod(rows)
    )


def greatest_or_least(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """GlobalMaxPool, ReduceMax and ReduceMin over any axes."""
    name = walk.activation(node.inputs[0])
    axes = reduced_axes(walk, node, len(walk.tensor(name).onnx_shape))
    least = node.op_type == "ReduceMin"
    quantization = walk.tensor(name).quantization
    if least:
        name = turned(walk, name)
    seen = _arrange(walk, node, name, axes, free_last=False)
    if seen.reduced > MOST:
        raise Unsupported(f"the greatest of {seen.reduced} elements (at most {MOST})")
    found = Pool("max", Window((seen.reduced, 1)))
    whole, result = (seen.before, seen.reduced, 1, seen.after), (seen.before, 1, 1, seen.after)
    made = seen_as(walk, node, quantization, found, seen.name, whole, seen.order, (), result)
    return rescaled(walk, node, made, out, least)


def greatest_of_several(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """Max and Min of several activations: a window over all of them."""
    result = shape_of(node.outputs[0])
    if len(result) > 4:
        raise Unsupported(f"a result of rank {len(result)}")
    least = node.op_type == "Min"
    names = [
        of_rank(walk, at_scale(walk, value, out, f"{node.name}.{i}"), len(result))
        for i, value in enumerate(node.inputs)
    ]
    order = walk.order(next((n for n in names if walk.tensor(n).onnx_shape == result), names[0]))
    shape = [result[d] for d in order]
    images = (math.prod(shape[:-2]), 1, shape[-2] if len(shape) > 1 else 1, shape[-1])
    rows = []
    for name in names:
        if least:
            name = turned(walk, name)
        full = walk.in_order(repeated(walk, name, result), order)
        rows.append(walk.reshaped(full, images, (0, 1, 2, 3)))
    found = Pool("max", Window((len(rows), 1)))
    stacked = (images[0], len(rows), *images[2:])
    made = seen_as(walk, node, out, found, joined(walk, rows, 1), stacked, order, (), images)
    return rescaled(walk, node, replace(made, order=order), out, least)


def reduced_axes(walk: Walk, node: ir.Node, rank: int) -> list[int]:
    """The axes that a node reduces, in order: of an attribute, an input, or all.

    Raises:
        Unsupported: none, or not constant.
    """
    if node.op_type.startswith("Global"):
        return list(range(2, rank))
    if "axes" in node.attributes:
        axes = ints(node, "axes", [])
    elif len(node.inputs) > 1 and node.inputs[1] is not None:
        given = walk.constant(node.inputs[1])
        if given is None:
            raise Unsupported("its axes are not constant")
        axes = [int(v) for v in given.reshape(-1)]
    else:
        axes = []
    if not axes and integer(node, "noop_with_empty_axes", 0):
        raise Unsupported("it reduces nothing")
    return sorted(a % rank for a in axes) or list(range(rank))


def _arrange(walk: Walk, node: ir.Node, name: str, axes: Sequence[int], free_last: bool) -> Reduction:
    """Bring the reduced dimensions together in memory; last of all only where ``free_last`` or nothing is kept."""
    shape, have = walk.tensor(name).onnx_shape, walk.order(name)
    kept = [d for d in have if d not in axes]
    gone = [d for d in have if d in axes]
    real = [d for d in gone if shape[d] > 1]
    plain = [d for d in have if shape[d] > 1]
    at_end = bool(real) and plain[-1] in real
    first = have.index(gone[0])
    order = (*[d for d in have[:first] if d in kept], *gone, *[d for d in have[first:] if d in kept])
    if not contiguous(plain, real) or (at_end and not free_last and kept):
        order = (*kept[:-1], *gone, *kept[-1:])
    moved = walk.in_order(name, order)
    cut = order.index(gone[-1])
    before, after = [d for d in order[:cut] if d in kept], list(order[cut + 1 :])
    keep = integer(node, "keepdims", 1)
    left = sorted([*kept, *(gone if keep else ())])
    result = tuple(left.index(d) for d in (*before, *(gone if keep else ()), *after))
    return Reduction(moved, volume(shape, before), volume(shape, gone), volume(shape, after), result)
