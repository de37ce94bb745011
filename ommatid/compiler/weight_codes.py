"""Weights rounded as onnxruntime's quantiser rounds them: a whole tensor at once, not one channel after the other.

The quantiser leaves alone a weight that a DequantizeLinear makes, and takes its scale for the bias. So weights reach it
in this form, under the names that it would give them itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ommatid.compiler.form import Form
from ommatid.compiler.ranges import Choice

Array = np.ndarray[Any, Any]

#: Operators whose second operand has a scale for each channel, and the axis of these (Gemm's may be transposed).
CHANNELS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
#: Codes that a bias may reach where activations have 16 bits (those of 8 bits are 257 times as coarse).
ROOM = 2.0**30


def round_weights(
    form: Form, choices: Mapping[str, Choice], left_out: Collection[str], domain: str
) -> list[onnx.NodeProto]:
    """Let nodes read int8 weights by channel through a DequantizeLinear of ``domain``; those that were put in.

    Only weights that one node alone reads, none of ``left_out``. The quantiser widens the scale of weights whose bias
    would not fit into int32: these are left to it.
    """
    graph = form.proto.graph
    constants = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    numbers = form.numbers()
    uses = Counter([*(name for node in graph.node for name in node.input), *(o.name for o in graph.output)])
    made: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        weights = constants.get(node.input[1]) if node.op_type in CHANNELS else None
        if weights is None or uses[weights.name] > 1 or node.name in left_out:
            continue
        array, axis = numbers(weights.name), _axis(node)
        bias = constants.get(node.input[2]) if len(node.input) > 2 else None
        if array.ndim <= axis or not array.size:
            continue
        scale = scales(array, axis)
        if bias is None or _fits(numbers(bias.name), scale, choices.get(node.input[0])):
            made[weights.name] = _dequantized(form, weights.name, array, scale, axis, domain)
            node.input[1] = made[weights.name].output[0]
    kept = [t for t in graph.initializer if t.name not in made]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for name in made:
        form.weights.pop(name, None)
    nodes = list(made.values())
    for i, node in enumerate(nodes):
        graph.node.insert(i, node)
    return nodes


def _axis(node: onnx.NodeProto) -> int:
    transposed = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if transposed else CHANNELS[node.op_type]


def scales(weights: Array, axis: int) -> Array:
    """The scale of each channel (float32): its codes lie between -127 and 127. A channel of zeros has 1."""
    others = tuple(i for i in range(weights.ndim) if i != axis)
    scale = np.maximum(weights.max(axis=others), -weights.min(axis=others)).astype(np.float64) / 127
    return np.where(scale < np.finfo(np.float32).tiny, 1, scale).astype(np.float32)


def codes(weights: Array, scale: Array, axis: int) -> Array:
    """The codes (int8) of weights (float32)."""
    result = weights / scale.reshape(-1, *[1] * (weights.ndim - 1 - axis))
    np.rint(result, out=result)  # no code is beyond 127: a scale is off by less than one in 2**23
    return np.asarray(result.astype(np.int8))


def _fits(bias: Array, scale: Array, read: Choice | None) -> bool:
    """Whether a bias fits into int32 by far."""
    if read is None or bias.shape != scale.shape:
        return False
    step = (max(read.high, 0.0) - min(read.low, 0.0)) / 65535
    return bool((np.abs(bias) < ROOM * step * scale.astype(np.float64)).all())


def _dequantized(
    form: Form, name: str, weights: Array, scale: Array, axis: int, domain: str
) -> onnx.NodeProto:
    """A DequantizeLinear of the weights, whose constants it adds to the graph."""
    arrays = {
        f"{name}_quantized": codes(weights, scale, axis), f"{name}_scale": scale,
        f"{name}_zero_point": np.zeros(len(scale), np.int8),
    }  # fmt: skip
    for key, array in arrays.items():
        form.add(key, array)
    output = f"{name}_DequantizeLinear_Output"
    form.proto.graph.value_info.append(
        helper.make_tensor_value_info(output, TensorProto.FLOAT, weights.shape)
    )
    return helper.make_node(
        "DequantizeLinear", [*arrays], [output], f"{name}_DequantizeLinear", domain=domain or None, axis=axis
    )
