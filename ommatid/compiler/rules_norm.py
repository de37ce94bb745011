"""Rules of normalisations over the channels of every pixel."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ommatid.compiler.attributes import integer, number
from ommatid.compiler.broadcast import seen_as
from ommatid.compiler.errors import Unsupported
from ommatid.compiler.layers import Norm
from ommatid.compiler.quantized import Made, Walk
from ommatid.isa.program import Quantization


def layer_norm(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """LayerNormalization over the last axes, with constant scale and shift; of a float model also its statistics."""
    return _norm(walk, node, out, True)


def rms_norm(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """RMSNormalization over the last axes, with a constant scale."""
    return _norm(walk, node, out, False)


def _norm(walk: Walk, node: ir.Node, out: Quantization, centre: bool) -> Made:
    """The instruction's formula, with the scale of the output inside multiplier and shift."""
    name = walk.activation(node.inputs[0])
    shape, have = walk.tensor(name).onnx_shape, walk.order(name)
    axis = integer(node, "axis", -1) % len(shape)
    channels = math.prod(shape[axis:])
    if channels > 65535:
        raise Unsupported(f"over {channels} elements (at most 65535)")
    order = (*(d for d in have if d < axis), *range(axis, len(shape)))
    scale = np.float64(np.float32(walk.tensor(name).quantization.scale))
    factors = np.zeros((2, channels))
    for row, value in enumerate(node.inputs[1:3]):
        constant = walk.constant(value)
        if constant is None and value is not None:
            raise Unsupported("its scale and shift must be constant")
        factors[row] = (row == 0) if constant is None else np.broadcast_to(constant, shape[axis:]).reshape(-1)
    epsilon = np.float32(number(node, "epsilon", 1e-5) * channels**2 / scale**2)
    operation = Norm(
        (factors / np.float64(np.float32(out.scale))).astype(np.float32),
        float(np.maximum(epsilon, np.finfo(np.float32).tiny)),
        centre,
    )
    name = walk.in_order(name, order)
    if len(shape) <= 4 and channels == shape[-1]:
        return Made(operation, (name,), order)
    return seen_as(walk, node, out, operation, name, (1, math.prod(shape[:axis]), channels), order)
