"""Cross-layer equalisation: channels of a tensor between two convolutions get ranges alike, by their weights.

Where nothing but functions with f(g x) = g f(x) for g > 0 stands between two convolutions, channel c may be
computed 1/g[c] times as large and read with weights g[c] times as large: the network stays the same, and a scale
for the whole tensor fits every channel. Nagel, van Baalen, Blankevoort, Welling: Data-Free Quantization Through
Weight Equalization and Bias Correction, ICCV 2019, section 4.1; here with ranges of activations that were
observed: g[c] = sqrt(range of channel c / range of the weights that read it), over the largest of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ommatid.compiler.observe import Observed
from ommatid.compiler.recipe import EQUALIZED
from ommatid.compiler.weight_codes import codes, scales

Array = np.ndarray[Any, Any]
HOMOGENEOUS = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize")
#: Gains stay within these, so that a channel that was hardly observed keeps room.
LIMIT = 64.0


@dataclass(frozen=True)
class Pair:
    """A convolution, its only reader but for homogeneous functions of one value, and the tensors between them."""

    first: ir.Node
    second: ir.Node
    between: tuple[ir.Value, ...]

    @property
    def read(self) -> str:
        """The name of the tensor that the second reads."""
        return self.between[-1].name or ""


def pairs(model: ir.Model) -> list[Pair]:
    """All of them, in order of the graph."""
    found = (_pair(node) for node in model.graph if node.op_type == "Conv")
    return [pair for pair in found if pair is not None]


def _pair(first: ir.Node) -> Pair | None:
    value = first.outputs[0]
    between: list[ir.Value] = []
    while len(value.uses()) == 1 and not value.is_graph_output():
        between.append(value)
        reader = next(iter(value.uses())).node
        if reader.op_type == "Conv" and reader.inputs[0] is value:
            whole = all(v is None or v.const_value is not None for n in (first, reader) for v in n.inputs[1:])
            fits = whole and (group(reader) == 1 or is_depthwise(reader))
            return Pair(first, reader, tuple(between)) if fits else None
        if reader.op_type not in HOMOGENEOUS or reader.inputs[0] is not value or len(reader.outputs) != 1:
            return None
        value = reader.outputs[0]
    return None


def gains(pair: Pair, seen: Observed) -> Array:
    """By channel, what the tensor that the second reads is divided by (float64, 1 / LIMIT to 1)."""
    reach = np.maximum(np.maximum(-seen.channel_low, seen.channel_high), 0)
    weights = np.abs(weights_of(pair.second))
    # a depthwise reader's weights have a scale for each channel: only the tensor's ranges count
    read = (
        np.ones(len(reach)) if is_depthwise(pair.second) else weights.max(axis=(0, *range(2, weights.ndim)))
    )
    alive = (reach > 1e-6 * reach.max(initial=0)) & (read > 0)
    if not alive.any():
        return np.ones(len(reach))
    wanted = reach if is_depthwise(pair.second) else np.sqrt(reach / np.where(alive, read, 1))
    return np.where(alive, np.clip(wanted / wanted[alive].max(), 1 / LIMIT, 1), 1.0)


def equalize(model: ir.Model, pair: Pair, gain: Array) -> None:
    """Divide what the first convolution computes by ``gain``, multiply the weights of the second."""
    first, second = pair.first, pair.second
    set_constant(model, first, 1, numbers(first.inputs[1]) / _along(gain, 0, first))
    if len(first.inputs) > 2 and first.inputs[2] is not None:
        set_constant(model, first, 2, numbers(first.inputs[2]) / gain)
    set_constant(model, second, 1, numbers(second.inputs[1]) * read_by(gain, second))
    for value in pair.between:
        value.name = f"{value.name}{EQUALIZED}"


def read_by(gain: Array, conv: ir.Node) -> Array:
    """Numbers by input channel in the shape that spreads them over the weights of their reader."""
    return _along(gain, 0 if is_depthwise(conv) else 1, conv)


def _along(values: Array, axis: int, conv: ir.Node) -> Array:
    rank = weights_of(conv).ndim
    return values.reshape(*[1] * axis, -1, *[1] * (rank - 1 - axis))


def numbers(value: ir.Value | None) -> Array:
    """A constant's numbers (float64)."""
    assert value is not None and value.const_value is not None
    return np.asarray(value.const_value.numpy(), np.float64)


def group(conv: ir.Node) -> int:
    """The groups of a convolution."""
    return int(conv.attributes["group"].as_int()) if "group" in conv.attributes else 1


def is_depthwise(conv: ir.Node) -> bool:
    """One input channel in every group."""
    return group(conv) > 1 and weights_of(conv).shape[1] == 1


def is_fixed(node: ir.Node) -> bool:
    """A convolution of an activation with constant weights and bias."""
    return (
        node.op_type == "Conv"
        and node.inputs[0] is not None
        and node.inputs[0].const_value is None
        and all(v is None or v.const_value is not None for v in node.inputs[1:])
    )


def weights_of(conv: ir.Node) -> Array:
    """A convolution's weights (float32)."""
    value = conv.inputs[1]
    assert value is not None and value.const_value is not None
    return np.asarray(value.const_value.numpy(), np.float32)


def rounded_weights(weights: Array) -> Array:
    """Weights as int8 by output channel keeps them, of the same type."""
    scale = scales(weights, 0)
    return codes(weights, scale, 0) * scale.reshape(-1, *[1] * (weights.ndim - 1)).astype(weights.dtype)


def set_constant(model: ir.Model, node: ir.Node, index: int, array: Array) -> None:
    """Give a node a constant of its own in place of one that others may read."""
    old = node.inputs[index]
    name = (
        f"{node.name}__{index}_{len(model.graph.initializers)}" if old is None else f"{old.name}__{node.name}"
    )
    value = ir.Value(name=name, const_value=ir.tensor(array.astype(np.float32)))
    value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.FLOAT)
    node.replace_input_with(index, value)
    model.graph.register_initializer(value)
