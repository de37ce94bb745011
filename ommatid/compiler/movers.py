"""Operators that only move bytes: reshape, transpose, split, slice, gather, tile and their kin.

They take a quantised tensor and give one of the same scale. Where the bytes can stay, the result is a view.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ommatid.compiler.affine import scaled
from ommatid.compiler.attributes import integer, ints, shape_of, text
from ommatid.compiler.broadcast import of_rank, picked, repeated, tiled
from ommatid.compiler.errors import Unsupported
from ommatid.compiler.layers import Layer, Operation, Slice, View
from ommatid.compiler.model import trains, used
from ommatid.compiler.quantized import TRUTH, Walk


def finish(
    walk: Walk, node: ir.Node, output: ir.Value, source: str, order: tuple[int, ...], operation: Operation
) -> str:
    """Declare the result under the name of the QuantizeLinear behind it, if that changes nothing."""
    quantization = walk.tensor(source).quantization
    name, covered = output.name or "", [node.name or ""]
    uses = output.uses()
    if len(uses) == 1 and not output.is_graph_output():
        q = next(iter(uses)).node
        if q.op_type == "QuantizeLinear" and walk.quantization_of(q) == quantization:
            name = q.outputs[0].name or ""
            covered.append(q.name or "")
            walk.done_q.add(q.name or "")
    walk.declare(name, shape_of(output), order, quantization)
    walk.deq[output.name or ""] = name
    label = node.name or ""
    index = list(node.outputs).index(output)
    layer = label if index == 0 else f"{label}@{index}"
    walk.add(Layer(layer, node.op_type, (label,), operation, (source,), name))
    walk.covered[layer] = covered
    return name


def reshape(walk: Walk, node: ir.Node) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze: a view where merged dimensions stand together in memory."""
    source = walk.activation(node.inputs[0])
    before, after = walk.tensor(source).onnx_shape, shape_of(node.outputs[0])
    wanted, order = reshaped_order(before, after, walk.order(source))
    moved = walk.in_order(source, wanted)
    result = finish(walk, node, node.outputs[0], moved, order, View())
    if len(before) == 4 and len(after) == 2 and after[0] == before[0] and walk.order(source) == (0, 2, 3, 1):
        walk.unflattened[result] = source


def dropout(walk: Walk, node: ir.Node) -> None:
    """Dropout that drops nothing: not for training, or of ratio 0. Its mask may be an output of the network."""
    if trains(node):
        raise Unsupported("it is for training")
    reshape(walk, node)
    for mask in node.outputs[1:]:
        if mask.uses():
            raise Unsupported("its mask is read")
        source, label = walk.activation(node.inputs[0]), f"{node.name}@mask"
        walk.declare(mask.name or "", shape_of(mask), walk.order(source), TRUTH)
        walk.deq[mask.name or ""] = mask.name or ""
        ones = scaled(walk, source, TRUTH, 0.0, 1.0)
        walk.add(Layer(label, node.op_type, (node.name or "",), ones, (source,), mask.name or ""))
        walk.covered[label] = [node.name or ""]


def reshaped_order(
    before: tuple[int, ...], after: tuple[int, ...], order: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(order that the input must be brought to, order of the output) for a reshape that moves no byte."""
    groups = _factor_groups(before, after)
    wanted: list[int] = []
    result: list[int] = []
    for d in order:
        if d in wanted:
            continue
        group = next((g for g in groups if d in g[0]), ([d], []))
        wanted += group[0]
        result += group[1]
    ones = [d for d in range(len(after)) if d not in result]
    for d in ones:  # dimensions of 1 that belong to no group: before the last, so that channels stay last
        result.insert(max(len(result) - 1, 0), d)
    if len(after) == 4 and math.prod(after[2:]) == 1:
        result = [0, 2, 3, 1]
    return tuple(wanted), tuple(result)


def _factor_groups(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Runs of dimensions of both shapes with equal products, as short as possible."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = [], []
        a = b = 1
        if i < len(before):
            left.append(i)
            a, i = before[i], i + 1
        if j < len(after) and (a != 1 or not left or after[j] == 1):
            right.append(j)
            b, j = after[j], j + 1
        while a != b:
            if a < b:
                left.append(i)
                a, i = a * before[i], i + 1
            else:
                right.append(j)
                b, j = b * after[j], j + 1
        groups.append((left, right))
    return groups


def transpose(walk: Walk, node: ir.Node) -> None:
    """Transpose: the bytes stay, the order of the dimensions changes."""
    source = walk.activation(node.inputs[0])
    rank = len(walk.tensor(source).onnx_shape)
    perm = ints(node, "perm", list(reversed(range(rank))))
    order = tuple(perm.index(d) for d in walk.order(source))
    finish(walk, node, node.outputs[0], source, order, View())


def split(walk: Walk, node: ir.Node) -> None:
    """Split along any axis: each part a slice."""
    source = walk.activation(node.inputs[0])
    order = walk.order(source)
    axis = integer(node, "axis", 0) % len(order)
    at = 0
    for output in node.outputs:
        starts = tuple(at if d == axis else 0 for d in order)
        if used(output) and len(order) > 4:
            part = picked(walk, source, axis, range(at, at + shape_of(output)[axis]))
            finish(walk, node, output, part, order, View())
        elif used(output):
            finish(walk, node, output, source, order, Slice(starts, (1,) * len(order)))
        at += shape_of(output)[axis]


def slice_(walk: Walk, node: ir.Node) -> None:
    """Slice with constant bounds; a negative step is a join of single rows."""
    source = walk.activation(node.inputs[0])
    shape, order = walk.tensor(source).onnx_shape, walk.order(source)
    if "starts" in node.attributes:
        starts, axes = (
            ints(node, "starts", []),
            ints(node, "axes", list(range(len(ints(node, "starts", []))))),
        )
        steps = [1] * len(starts)
    else:
        parts = [walk.constant(v) for v in node.inputs[1:]]
        if (
            any(p is None and v is not None for p, v in zip(parts, node.inputs[1:], strict=True))
            or parts[0] is None
        ):
            raise Unsupported("its bounds are not constant")
        starts = [int(v) for v in parts[0]]
        axes = (
            [int(v) for v in parts[2]]
            if len(parts) > 2 and parts[2] is not None
            else list(range(len(starts)))
        )
        steps = [int(v) for v in parts[3]] if len(parts) > 3 and parts[3] is not None else [1] * len(starts)
    begin, step = [0] * len(shape), [1] * len(shape)
    for start, axis, each in zip(starts, axes, steps, strict=True):
        d = axis % len(shape)
        begin[d] = int(np.clip(start + shape[d] if start < 0 else start, 0, shape[d] - (each < 0)))
        step[d] = each
    after = shape_of(node.outputs[0])
    for d in [d for d in range(len(shape)) if step[d] < 0]:
        source = picked(walk, source, d, [begin[d] + i * step[d] for i in range(after[d])])
        begin[d], step[d] = 0, 1
    if len(shape) > 4:
        for d in range(len(shape)):
            source = picked(walk, source, d, [begin[d] + i * step[d] for i in range(after[d])])
        finish(walk, node, node.outputs[0], source, order, View())
        return
    cut = Slice(tuple(begin[d] for d in order), tuple(step[d] for d in order))
    finish(walk, node, node.outputs[0], source, order, cut)


def gather(walk: Walk, node: ir.Node) -> None:
    """Gather with constant indices: slices, joined where they are several."""
    source = walk.activation(node.inputs[0])
    indices = walk.constant(node.inputs[1])
    if indices is None:
        raise Unsupported("its indices are not constant")
    shape = walk.tensor(source).onnx_shape
    axis = integer(node, "axis", 0) % len(shape)
    wanted = [int(i) % shape[axis] for i in indices.reshape(-1)]
    moved = picked(walk, source, axis, wanted)
    flat = walk.tensor(moved).onnx_shape
    after = (*flat[:axis], *indices.shape, *flat[axis + 1 :])
    moved = _reshaped(walk, moved, after)
    finish(walk, node, node.outputs[0], moved, walk.order(moved), View())


def tile(walk: Walk, node: ir.Node) -> None:
    """Tile with constant repeats."""
    source = walk.activation(node.inputs[0])
    repeats = walk.constant(node.inputs[1])
    if repeats is None:
        raise Unsupported("its repeats are not constant")
    moved = tiled(walk, source, [int(n) for n in repeats])
    finish(walk, node, node.outputs[0], moved, walk.order(moved), View())


def expand(walk: Walk, node: ir.Node) -> None:
    """Expand to a fixed shape."""
    shape = shape_of(node.outputs[0])
    moved = repeated(walk, of_rank(walk, walk.activation(node.inputs[0]), len(shape)), shape)
    finish(walk, node, node.outputs[0], moved, walk.order(moved), View())


def depth_to_space(walk: Walk, node: ir.Node) -> None:
    """DepthToSpace in both modes: blocks of channels become pixels."""
    source = walk.activation(node.inputs[0])
    n, c, h, w = walk.tensor(source).onnx_shape
    b = integer(node, "blocksize", 1)
    if text(node, "mode", "DCR") == "DCR":
        shape, perm = (n, b, b, c // b // b, h, w), (0, 3, 4, 1, 5, 2)
    else:
        shape, perm = (n, c // b // b, b, b, h, w), (0, 1, 4, 2, 5, 3)
    _rearranged(walk, node, source, shape, perm)


def space_to_depth(walk: Walk, node: ir.Node) -> None:
    """SpaceToDepth in both modes: blocks of pixels become channels."""
    source = walk.activation(node.inputs[0])
    n, c, h, w = walk.tensor(source).onnx_shape
    b = integer(node, "blocksize", 1)
    perm = (0, 3, 5, 1, 2, 4) if text(node, "mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    _rearranged(walk, node, source, (n, c, h // b, b, w // b, b), perm)


def _rearranged(
    walk: Walk, node: ir.Node, source: str, shape: tuple[int, ...], perm: tuple[int, ...]
) -> None:
    """Reshape, Transpose, and Reshape to the shape of the result."""
    apart = _reshaped(walk, source, shape)
    order = tuple(perm.index(d) for d in walk.order(apart))
    turned = walk.reshaped(apart, [shape[d] for d in perm], order)
    moved = _reshaped(walk, turned, shape_of(node.outputs[0]))
    finish(walk, node, node.outputs[0], moved, walk.order(moved), View())


def _reshaped(walk: Walk, name: str, shape: tuple[int, ...]) -> str:
    wanted, order = reshaped_order(walk.tensor(name).onnx_shape, shape, walk.order(name))
    return walk.reshaped(walk.in_order(name, wanted), shape, order)
