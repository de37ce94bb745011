"""Rules of the MAC array: convolution and matrix multiplication by constant weights."""

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
    text,
    two,
    ungrouped,
)
from ommatid.compiler.errors import Unsupported
from ommatid.compiler.layers import Conv, Window
from ommatid.compiler.quantized import Made, Walk
from ommatid.compiler.rules_product import most_sum, product
from ommatid.isa.program import Quantization

Array = np.ndarray[Any, Any]


def quantised_weights(walk: Walk, value: ir.Value | None, axis: int) -> tuple[Array, Array]:
    """int8 weights (less their zero point) and one float32 scale for each index along ``axis``.

    Raises:
        Unsupported: not constant, not quantised, or not exactly int8.
    """
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "DequantizeLinear":
        raise Unsupported("weights are not quantised constants")
    q, scale = walk.constant(node.inputs[0]), walk.constant(node.inputs[1])
    if q is None or scale is None:
        raise Unsupported("weights are not constant")
    zero = walk.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if q.dtype not in (np.int8, np.uint8):
        raise Unsupported(f"weights of type {q.dtype} are not supported")
    given = integer(node, "axis", 1) % max(q.ndim, 1)
    if scale.size > 1 and given != axis:
        raise Unsupported(f"weights are quantised along axis {given}, not along output channels ({axis})")
    if q.dtype == np.uint8 or (zero is not None and zero.any()):
        shape = [1] * q.ndim
        if zero is not None and zero.size > 1:
            shape[axis] = zero.size
        wide = q.astype(np.int32) - (0 if zero is None else zero.astype(np.int32).reshape(shape))
        if wide.min(initial=0) < -128 or wide.max(initial=0) > 127:
            raise Unsupported("asymmetric weights do not fit int8 once their zero point is taken off")
        q = wide.astype(np.int8)
    return q, np.broadcast_to(scale.reshape(-1), (q.shape[axis],)).astype(np.float32)


def quantised_bias(walk: Walk, value: ir.Value | None, scales: Array, channels: int) -> Array:
    """int32 biases at scale ``scales`` (input scale times weight scale, by channel)."""
    if value is None:
        return np.zeros(channels, np.int32)
    real = walk.constant(value)
    if real is None:
        raise Unsupported("the bias is not constant")
    node = value.producer()
    if node is not None and node.op_type == "DequantizeLinear":
        q, scale = walk.constant(node.inputs[0]), walk.constant(node.inputs[1])
        if (
            q is not None
            and scale is not None
            and q.dtype == np.int32
            and np.allclose(scale.reshape(-1), scales, rtol=1e-4)
        ):
            return np.broadcast_to(q.reshape(-1), (channels,)).astype(np.int32)
    steps = np.rint(
        np.broadcast_to(real.reshape(-1), (channels,)).astype(np.float64) / scales.astype(np.float64)
    )
    if np.abs(steps).max(initial=0) >= 2**31:
        raise Unsupported("the bias does not fit int32 at the accumulator's scale")
    return steps.astype(np.int32)


def requantisation(
    walk: Walk, name: str, weights: Array, weight_scales: Array, bias: ir.Value | None, out: Quantization
) -> tuple[Array, Array]:
    """int32 bias and float32 multipliers (design 3.4); ``weights`` have output channels first.

    int32 accumulators hold sums of 8-bit activations, 48-bit ones those of 16 bits.

    Raises:
        Unsupported: an accumulator could overflow.
    """
    scale = np.float32(walk.tensor(name).quantization.scale)
    products = (scale * weight_scales).astype(np.float32)
    biases = quantised_bias(walk, bias, products, len(weights))
    quantization = walk.tensor(name).quantization
    kind, limit = quantization.kind, most_sum(quantization)
    low, high = kind.low - quantization.zero_point, kind.high - quantization.zero_point
    rows = weights.reshape(len(weights), -1)
    if rows.shape[1] * 128 * max(high, -low) + int(np.abs(biases.astype(np.int64)).max(initial=0)) >= limit:
        positive, negative = (
            clamp(rows, 0).sum(axis=1, dtype=np.int64) for clamp in (np.maximum, np.minimum)
        )
        largest = biases + positive * high + negative * low
        smallest = biases + positive * low + negative * high
        if largest.max(initial=0) >= limit or smallest.min(initial=0) < -limit:
            channel = int(np.argmax(np.maximum(largest, -smallest)))
            raise Unsupported(
                f"the int{limit.bit_length()} accumulator of output channel {channel} could overflow "
                f"(its bias is {biases[channel]})"
            )
    return biases, (products / np.float32(out.scale)).astype(np.float32)


def conv(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """Conv in one or two dimensions, of a float model also three; constant int8 weights, any window, padding, group."""
    name, shape, order, size = image(walk, node)
    q, scales = quantised_weights(walk, node.inputs[1], 0)
    q = q.reshape(q.shape[0], q.shape[1], *two(q.shape[2:]))
    weights = np.ascontiguousarray(q.transpose(0, 2, 3, 1))
    strides, dilations = (
        two(ints(node, "strides", [1] * (len(shape) - 2))),
        two(ints(node, "dilations", [1] * (len(shape) - 2))),
    )
    kernel = (weights.shape[1], weights.shape[2])
    pads = spatial_pads(node, size, kernel, strides, dilations)
    bias, multipliers = requantisation(
        walk, name, weights, scales, node.inputs[2] if len(node.inputs) > 2 else None, out
    )
    operation = Conv(
        weights,
        bias,
        multipliers,
        Window(kernel, strides, dilations, pads),
        integer(node, "group", 1),
        middle(out),
    )
    return Made(
        operation, (name,), order, macs=math.prod(shape_of(node.outputs[0])) * int(np.prod(weights.shape[1:]))
    )


def conv_transpose(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """ConvTranspose in one or two dimensions, of a float model also three: one plain convolution for each phase of the grid."""
    name, shape, order, size = image(walk, node)
    q, scales = quantised_weights(walk, node.inputs[1], 1)
    q, group = q.reshape(*q.shape[:2], *two(q.shape[2:])), integer(node, "group", 1)
    rank = len(shape) - 2
    strides, dilations = (two(ints(node, key, [1] * rank)) for key in ("strides", "dilations"))
    weights = _spread(ungrouped(q, group).transpose(1, 2, 3, 0), dilations)[:, ::-1, ::-1, :]
    kernel = (weights.shape[1], weights.shape[2])
    result = two(shape_of(node.outputs[0])[2:])
    top, left = _transposed_pads(node, size, result, kernel, strides)
    before = kernel[0] - 1 - top, kernel[1] - 1 - left
    behind = (
        r - (n - 1) * s - 1 - p + k - 1
        for r, n, s, p, k in zip(result, size, strides, before, kernel, strict=True)
    )
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    biases, multipliers = requantisation(walk, name, weights, np.tile(scales, group), bias, out)
    window = Window(kernel, (1, 1), (1, 1), (*before, *behind))
    operation = Conv(np.ascontiguousarray(weights), biases, multipliers, window, 1, middle(out), strides)
    return Made(operation, (name,), order, macs=math.prod(shape) * int(np.prod(q.shape[1:])))


def _spread(weights: Array, dilations: tuple[int, int]) -> Array:
    """The kernel with dilations - 1 zeros between its taps."""
    (kh, kw), (dh, dw) = weights.shape[1:3], dilations
    wide = np.zeros((len(weights), (kh - 1) * dh + 1, (kw - 1) * dw + 1, weights.shape[3]), np.int8)
    wide[:, ::dh, ::dw] = weights
    return wide


def _transposed_pads(
    node: ir.Node, size: tuple[int, int], result: tuple[int, int], kernel: tuple[int, int], strides: tuple[int, int]
) -> tuple[int, int]:  # fmt: skip
    """What is cut off above and left of the whole transposed convolution (ONNX ConvTranspose-11)."""
    mode = text(node, "auto_pad", "NOTSET")
    if mode == "VALID":
        return 0, 0
    if mode in ("NOTSET", "") and "output_shape" not in node.attributes:
        return spatial_pads(node, size, kernel, (1, 1), (1, 1))[:2]
    extra = [0, *ints(node, "output_padding", [0, 0])][-2:]
    total = [
        max((n - 1) * s + e + k - r, 0)
        for n, s, e, k, r in zip(size, strides, extra, kernel, result, strict=True)
    ]
    top, left = (t - t // 2 if mode == "SAME_LOWER" else t // 2 for t in total)
    return top, left


def gemm(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """Gemm with constant weights, alpha = beta = 1; after a Flatten it is a convolution over the image."""
    if integer(node, "transA", 0) or number(node, "alpha", 1.0) != 1.0 or number(node, "beta", 1.0) != 1.0:
        raise Unsupported("only alpha = beta = 1 and transA = 0")
    turned = integer(node, "transB", 0)
    q, scales = quantised_weights(walk, node.inputs[1], 0 if turned else 1)
    return _dense(
        walk, node, q if turned else q.T, scales, node.inputs[2] if len(node.inputs) > 2 else None, out
    )


def matmul(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """MatMul of an activation by constant weights [K, N], or of two activations of any rank, broadcast."""
    if all(value is not None and value.name in walk.deq for value in node.inputs):
        return product(walk, node, out)
    q, scales = quantised_weights(walk, node.inputs[1], 1)
    if q.ndim != 2:
        raise Unsupported("weights must have two dimensions")
    return _dense(walk, node, q.T, scales, None, out)


def _dense(
    walk: Walk, node: ir.Node, q: Array, scales: Array, bias: ir.Value | None, out: Quantization
) -> Made:
    """``q`` int8 [N, K]."""
    name = walk.activation(node.inputs[0])
    shape = walk.tensor(name).onnx_shape
    if not 2 <= len(shape) <= 4:
        raise Unsupported(f"an input of rank {len(shape)}")
    natural = tuple(range(len(shape)))
    macs = math.prod(shape_of(node.outputs[0])) * q.shape[1]
    if name in walk.unflattened:
        whole = walk.unflattened[name]
        _, c, h, w = walk.tensor(whole).onnx_shape
        weights = np.ascontiguousarray(q.reshape(-1, c, h, w).transpose(0, 2, 3, 1))
        name, kernel = walk.in_order(whole, (0, 2, 3, 1)), (h, w)
    else:
        name, kernel = walk.in_order(name, natural), (1, 1)
        weights = np.ascontiguousarray(q)[:, None, None, :]
    biases, multipliers = requantisation(walk, name, weights, scales, bias, out)
    return Made(
        Conv(weights, biases, multipliers, Window(kernel), 1, middle(out)), (name,), natural, macs=macs
    )
