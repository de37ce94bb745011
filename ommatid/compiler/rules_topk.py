"""Operators that find channels: ArgMax, ArgMin, TopK, and what may happen to the indices that they give.

An index tensor is one of bytes: its last dimension, behind those of ONNX, is the four bytes of an int32. It can be
reshaped and be an output of the network; nothing on the NPU computes with it.
"""

from __future__ import annotations

import onnx_ir as ir

from ommatid.compiler.attributes import integer, ints, shape_of
from ommatid.compiler.errors import Unsupported
from ommatid.compiler.layers import INDEX_BYTES, Layer, TopK, View
from ommatid.compiler.movers import finish, reshaped_order
from ommatid.compiler.quantized import Walk
from ommatid.isa.program import Quantization

BYTES = Quantization(1.0, 0, "uint8")


def arg(walk: Walk, node: ir.Node) -> None:
    """ArgMax and ArgMin over any axis, their result only reshaped or an output of the network."""
    axis = integer(node, "axis", 0)
    source, order, axis = _channels_last(walk, node, axis)
    top = TopK(1, node.op_type == "ArgMax", bool(integer(node, "select_last_index", 0)), True)
    if not integer(node, "keepdims", 1):
        order = tuple(d - (d > axis) for d in order[:-1])
    _indices(walk, node, node.outputs[0], source, order, top)


def top_k(walk: Walk, node: ir.Node) -> None:
    """TopK with a constant k over any axis; its indices only reshaped or an output of the network."""
    count = walk.constant(node.inputs[1])
    if count is None:
        raise Unsupported("its k is not constant")
    source, order, _ = _channels_last(walk, node, integer(node, "axis", -1))
    k, largest = int(count.reshape(-1)[0]), bool(integer(node, "largest", 1))
    values, indices = node.outputs
    if _is_used(indices):
        _indices(walk, node, indices, source, order, TopK(k, largest, False, True))
    if _is_used(values):
        finish(walk, node, values, source, order, TopK(k, largest, False, False))


def _is_used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _channels_last(walk: Walk, node: ir.Node, axis: int) -> tuple[str, tuple[int, ...], int]:
    """The input with ``axis`` innermost in memory, its order, and the axis counted from the front."""
    name = walk.activation(node.inputs[0])
    order, shape = walk.order(name), walk.tensor(name).onnx_shape
    axis %= max(len(shape), 1)
    if not shape or shape[axis] > 65535:
        raise Unsupported(f"shape {shape}, axis {axis}")
    if order[-1] != axis:
        order = (*(d for d in order if d != axis), axis)
    return walk.in_order(name, order), order, axis


def _indices(
    walk: Walk, node: ir.Node, value: ir.Value, source: str, order: tuple[int, ...], top: TopK
) -> None:
    reader = _computes_with(value)
    if reader is not None:
        raise Unsupported(f"its indices are computed with, by {reader.op_type} {reader.name!r}")
    _hold(walk, node, value, source, order, top)


def _computes_with(value: ir.Value) -> ir.Node | None:
    """A node that does more with indices than to give them another shape."""
    for use in value.uses():
        if use.node.op_type not in INDEX_MOVERS or use.idx != 0:
            return use.node
        reader = _computes_with(use.node.outputs[0])
        if reader is not None:
            return reader
    return None


def _hold(
    walk: Walk, node: ir.Node, value: ir.Value, source: str, order: tuple[int, ...], operation: TopK | View
) -> None:
    """Add a layer whose result is an index tensor; ``order`` is that of ONNX's dimensions."""
    shape, name = shape_of(value), f"{value.name}@bytes"
    walk.declare(name, (*shape, INDEX_BYTES), (*order, len(shape)), BYTES)
    walk.indices[value.name or ""] = name
    label = node.name or ""
    layer = label if value is node.outputs[0] else f"{label}@indices"
    walk.add(Layer(layer, node.op_type, (label,), operation, (source,), name))
    walk.covered[layer] = [label]


def move_indices(walk: Walk, node: ir.Node) -> None:
    """A node of INDEX_MOVERS: the same indices under another shape or type."""
    value = node.inputs[0]
    assert value is not None
    source = walk.indices[value.name or ""]
    before, order = walk.tensor(source).onnx_shape[:-1], walk.order(source)[:-1]
    if node.op_type == "Transpose":
        perm = ints(node, "perm", list(reversed(range(len(before)))))
        order = tuple(perm.index(d) for d in order)
    else:
        wanted, order = reshaped_order(before, shape_of(node.outputs[0]), order)
        source = walk.in_order(source, (*wanted, len(before)))
    _hold(walk, node, node.outputs[0], source, order, View())


#: Operators that indices may go through.
INDEX_MOVERS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Cast")
