"""Rules of normalisations over the channels of every pixel."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ommatid.compiler.attributes import integer, number
from ommatid.compiler.layers import Norm
from ommatid.compiler.quantized import Made, Unsupported, Walk
from ommatid.isa.program import Quantization


def layer_norm(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """LayerNormalization over one axis, with constant scale and shift."""
    return _norm(walk, node, out, True)


def rms_norm(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """RMSNormalization over one axis, with a constant scale."""
    return _norm(walk, node, out, False)


def _norm(walk: Walk, node: ir.Node, out: Quantization, centre: bool) -> Made:
    """The instruction's formula, with the scale of the output inside multiplier and shift."""
    name = walk.activation(node.inputs[0])
    shape, order = walk.tensor(name).onnx_shape, walk.order(name)
    axis = integer(node, "axis", -1) % len(shape)
    if math.prod(shape[axis:]) != shape[axis] or shape[axis] > 65535 or len(shape) > 4:
        raise Unsupported(
            f"only over one axis of at most 65535, and up to four dimensions; shape {shape}, axis {axis}"
        )
    if order[-1] != axis:
        order = (*(d for d in order if d != axis), axis)
    channels, scale = shape[axis], np.float64(np.float32(walk.tensor(name).quantization.scale))
    factors = np.zeros((2, channels))
    for row, value in enumerate(node.inputs[1:3]):
        constant = walk.constant(value)
        if constant is None and value is not None:
            raise Unsupported("its scale and shift must be constant")
        if constant is not None and constant.size not in (1, channels):
            raise Unsupported(f"scale and shift must be vectors of {channels}")
        factors[row] = (row == 0) if constant is None else constant.reshape(-1)
    epsilon = np.float32(number(node, "epsilon", 1e-5) * channels**2 / scale**2)
    operation = Norm(
        (factors / np.float64(np.float32(out.scale))).astype(np.float32),
        float(np.maximum(epsilon, np.finfo(np.float32).tiny)),
        centre,
    )
    return Made(operation, (walk.in_order(name, order),), order)
