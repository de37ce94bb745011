"""An affine function by channel of one quantised tensor: a chain of scalings and shifts, one pass over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ommatid.compiler.clamps import clamp_steps, strip_clamps
from ommatid.compiler.layers import Layer, Map, Operation, View
from ommatid.compiler.model import fixed_shape, used
from ommatid.isa.program import Quantization

if TYPE_CHECKING:
    from ommatid.compiler.quantized import Walk

Array = np.ndarray[Any, Any]

#: Operators of an affine function by channel, where their second operands are constant.
LINEAR = ("Add", "Sub", "Mul", "Div", "BatchNormalization", "PRelu")


def affine(
    walk: Walk, node: ir.Node, source: ir.Value, quantization: Quantization, wide: bool = False
) -> bool:
    """Make a layer of what stands before a QuantizeLinear, of a tensor of 8 bits or, if ``wide``, of 16.

    False if it is no such function. Of 16 bits it may be a change of scale alone: that is a table of bytes.
    """
    clamps, inner = strip_clamps(walk, source)
    nodes: list[str] = []
    found = linear(walk, inner, nodes)
    if found is None or not (nodes or wide):
        return False
    root, slope, shift, negative = found
    base = walk.tensors[root]
    if (base.quantization.kind.bytes == 2) != wide or fixed_shape(node.outputs[0]) != base.onnx_shape:
        return False
    output = walk.declare(node.outputs[0].name or "", base.onnx_shape, walk.order(root), quantization)
    steps = clamp_steps(walk, clamps, quantization)
    names = (*reversed(nodes), *(c.name or "" for c in reversed(clamps))) or (node.name or "",)
    operation: Operation = scaled(walk, root, quantization, slope, shift, negative)
    if not nodes and base.quantization == quantization:
        operation = Map() if steps else View()
    op = walk.ops[names[0]] if names[0] != node.name else "Requantize"
    walk.add(Layer(names[0], op, names, operation, (root,), output, steps))
    walk.covered[names[0]] = [*names, node.name or ""]
    return True


def scaled_16_bits(walk: Walk, node: ir.Node, source: ir.Value, quantization: Quantization) -> bool:
    """``affine`` of a tensor of 16 bits."""
    return affine(walk, node, source, quantization, wide=True)


def scaled(
    walk: Walk,
    name: str,
    quantization: Quantization,
    slope: Any = 1.0,
    shift: Any = 0.0,
    negative: Any = None,
) -> Map:
    """The pass that gives slope * real + shift of a tensor (``negative``: the slope below zero), by channel or not."""
    base = walk.tensors[name]
    scale_in, scale_out = (np.float64(np.float32(q.scale)) for q in (base.quantization, quantization))
    below = slope if negative is None else negative
    parts = ((shift, 1 / scale_out), (slope, scale_in / scale_out), (below, scale_in / scale_out))
    channels = base.shape[-1] if base.shape else 1
    numbers = [np.broadcast_to(np.asarray(part, np.float64) * factor, (channels,)) for part, factor in parts]
    return Map(np.stack(numbers).astype(np.float32), (quantization.zero_point, quantization.dtype))


def linear(walk: Walk, value: ir.Value, nodes: list[str]) -> tuple[str, Any, Any, Any] | None:
    """(tensor, slope, shift, slope of negatives) by channel of a chain of scalings and shifts, or None."""
    if value.name in walk.deq:
        return walk.deq[value.name or ""], 1.0, 0.0, 1.0
    node = value.producer()
    if node is None or node.op_type not in LINEAR:
        return None
    if any(used(output) for output in node.outputs[1:]):
        return None
    turned = node.op_type in ("Add", "Mul") and walk.constant(node.inputs[0]) is not None
    first = node.inputs[1] if turned else node.inputs[0]
    if first is None:
        return None
    inner = linear(walk, first, nodes)
    if inner is None:
        return None
    root, slope, shift, negative = inner
    constants = [_by_channel(walk, v, root) for v in node.inputs if v is not first]
    if not constants or any(c is None for c in constants):  # none: it is a function of one tensor, twice
        return None
    nodes.insert(0, node.name or "")
    c: Any = constants[0]
    if node.op_type == "PRelu":
        return (root, slope, shift, np.asarray(c)) if nodes == [node.name] else None
    if np.any(np.asarray(negative) != np.asarray(slope)):
        return None
    if node.op_type == "BatchNormalization":
        gamma, beta, mean, variance = (np.asarray(k, np.float64) for k in constants)
        epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
        factor = gamma / np.sqrt(variance + epsilon)
        return root, slope * factor, (shift - mean) * factor + beta, slope * factor
    if node.op_type in ("Add", "Sub"):
        return root, slope, shift + (c if node.op_type == "Add" else -c), slope
    factor = c if node.op_type == "Mul" else 1 / c
    return root, slope * factor, shift * factor, slope * factor


def _by_channel(walk: Walk, value: ir.Value | None, name: str) -> Array | None:
    """A constant as one number for each channel of the tensor's memory, or one for all; None if it is neither."""
    array = walk.constant(value)
    if array is None:
        return None
    if array.size == 1:
        return array.reshape(1).astype(np.float64)
    tensor = walk.tensors[name]
    rank, axis = len(tensor.onnx_shape), walk.order(name)[-1]
    node_is_vector = (
        array.ndim == 1
        and value is not None
        and any(u.node.op_type == "BatchNormalization" for u in value.uses())
    )
    if node_is_vector:
        return array.astype(np.float64) if axis == 1 and array.size == tensor.shape[-1] else None
    padded = (1,) * (rank - array.ndim) + array.shape
    if (
        len(padded) != rank
        or any(d != 1 for i, d in enumerate(padded) if i != axis)
        or padded[axis] != tensor.onnx_shape[axis]
    ):
        return None
    return array.reshape(-1).astype(np.float64)
