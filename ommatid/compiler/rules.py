"""Rules: how an ONNX operator between quantised tensors becomes an operation. One function an operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ommatid.compiler import unary
from ommatid.compiler.layers import (
    Binary,
    Concat,
    Conv,
    Lrn,
    Map,
    Mean,
    Pad,
    Pool,
    Resize,
    Softmax,
    Window,
)
from ommatid.compiler.model import fixed_shape
from ommatid.compiler.quantized import Made, Unsupported, Walk, default_order
from ommatid.isa.program import Quantization

Array = np.ndarray[Any, Any]


def ints(node: ir.Node, name: str, default: Sequence[int]) -> list[int]:
    """An attribute of integers."""
    return [int(v) for v in node.attributes[name].as_ints()] if name in node.attributes else list(default)


def integer(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute."""
    return int(node.attributes[name].as_int()) if name in node.attributes else default


def number(node: ir.Node, name: str, default: float) -> float:
    """A float attribute."""
    return float(node.attributes[name].as_float()) if name in node.attributes else default


def text(node: ir.Node, name: str, default: str) -> str:
    """A string attribute."""
    return node.attributes[name].as_string() if name in node.attributes else default


def shape_of(value: ir.Value | None) -> tuple[int, ...]:
    """A value's shape.

    Raises:
        Unsupported: it is not known.
    """
    shape = fixed_shape(value) if value is not None else None
    if shape is None:
        raise Unsupported("its shape is not known")
    return shape


# --- weights ------------------------------------------------------------------------------------------


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
    wide = q.astype(np.int32)
    if zero is not None:
        shape = [1] * q.ndim
        if zero.size > 1:
            shape[axis] = zero.size
        wide = wide - zero.astype(np.int32).reshape(shape)
    if wide.min(initial=0) < -128 or wide.max(initial=0) > 127:
        raise Unsupported("asymmetric weights do not fit int8 once their zero point is taken off")
    channels = q.shape[axis]
    return wide.astype(np.int8), np.broadcast_to(scale.reshape(-1), (channels,)).astype(np.float32)


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

    Raises:
        Unsupported: an accumulator could overflow.
    """
    scale = np.float32(walk.tensor(name).quantization.scale)
    products = (scale * weight_scales).astype(np.float32)
    biases = quantised_bias(walk, bias, products, len(weights))
    quantization = walk.tensor(name).quantization
    info = np.iinfo(quantization.dtype)
    low, high = info.min - quantization.zero_point, info.max - quantization.zero_point
    wide = weights.astype(np.int64).reshape(len(weights), -1)
    positive, negative = np.maximum(wide, 0).sum(axis=1), np.minimum(wide, 0).sum(axis=1)
    largest = biases + positive * high + negative * low
    smallest = biases + positive * low + negative * high
    if largest.max(initial=0) >= 2**31 or smallest.min(initial=0) < -(2**31):
        channel = int(np.argmax(np.maximum(largest, -smallest)))
        raise Unsupported(
            f"the int32 accumulator of output channel {channel} could overflow (its bias is {biases[channel]})"
        )
    return biases, (products / np.float32(out.scale)).astype(np.float32)


def _mid(out: Quantization) -> tuple[int, str]:
    return out.zero_point, out.dtype


# --- convolution and matrix multiplication ----------------------------------------------------------------


def spatial_pads(
    node: ir.Node,
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[int, int, int, int]:
    """(top, left, bottom, right), from ``pads`` or ``auto_pad``."""
    mode = text(node, "auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        pads = ints(node, "pads", [0] * (2 * len(kernel)))
        half = len(pads) // 2
        begin, end = [0] * (2 - half) + pads[:half], [0] * (2 - half) + pads[half:]
        return begin[0], begin[1], end[0], end[1]
    if mode == "VALID":
        return 0, 0, 0, 0
    totals = []
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        totals.append(max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0))
    small = [t // 2 for t in totals]
    large = [t - t // 2 for t in totals]
    begin, end = (small, large) if mode == "SAME_UPPER" else (large, small)
    return begin[0], begin[1], end[0], end[1]


def two(values: Sequence[int]) -> tuple[int, int]:
    """(rows, columns) of an attribute of one or two dimensions."""
    values = [1] * (2 - len(values)) + [int(v) for v in values]
    return values[0], values[1]


def image_order(rank: int) -> tuple[int, ...]:
    """Channels last: rank 4 and, for sequences, rank 3."""
    if rank not in (3, 4):
        raise Unsupported(f"tensors of rank {rank} are not supported here")
    return (0, 2, 3, 1) if rank == 4 else (0, 2, 1)


def image(walk: Walk, node: ir.Node) -> tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, int]]:
    """The main input channels last: (tensor, ONNX shape, order, (rows, columns))."""
    name = walk.activation(node.inputs[0])
    shape = walk.tensor(name).onnx_shape
    order = image_order(len(shape))
    return walk.in_order(name, order), shape, order, two(shape[2:])


def conv(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """Conv in one or two dimensions with constant int8 weights; any kernel, stride, dilation, padding, group."""
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
        _mid(out),
    )
    return Made(
        operation, (name,), order, macs=math.prod(shape_of(node.outputs[0])) * int(np.prod(weights.shape[1:]))
    )


def conv_transpose(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """ConvTranspose of group 1, dilation 1: one plain convolution for each phase of the output grid."""
    name, shape, order, size = image(walk, node)
    if len(shape) != 4 or integer(node, "group", 1) != 1 or set(ints(node, "dilations", [1, 1])) != {1}:
        raise Unsupported("only two dimensions, group 1 and dilation 1")
    if text(node, "auto_pad", "NOTSET") not in ("NOTSET", "") or "output_shape" in node.attributes:
        raise Unsupported("only explicit pads")
    q, scales = quantised_weights(walk, node.inputs[1], 1)
    weights = np.ascontiguousarray(q.transpose(1, 2, 3, 0)[:, ::-1, ::-1, :])
    kernel = (weights.shape[1], weights.shape[2])
    pads = spatial_pads(node, size, kernel, (1, 1), (1, 1))
    inner = (
        kernel[0] - 1 - pads[0],
        kernel[1] - 1 - pads[1],
        kernel[0] - 1 - pads[2],
        kernel[1] - 1 - pads[3],
    )
    bias, multipliers = requantisation(
        walk, name, weights, scales, node.inputs[2] if len(node.inputs) > 2 else None, out
    )
    window = Window(kernel, (1, 1), (1, 1), inner)
    upsample = two(ints(node, "strides", [1, 1]))
    operation = Conv(weights, bias, multipliers, window, 1, _mid(out), upsample)
    return Made(operation, (name,), order, macs=math.prod(shape) * int(np.prod(q.shape[1:])))


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
    """MatMul of an activation by constant weights [K, N]."""
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
    return Made(Conv(weights, biases, multipliers, Window(kernel), 1, _mid(out)), (name,), natural, macs=macs)


# --- element by element ------------------------------------------------------------------------------------


def add(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """Add or Sub of two activations, dimensions of 1 repeated (design 3.6)."""
    first, second, order = _pair(walk, node)
    a, b = walk.tensor(first).quantization, walk.tensor(second).quantization
    sign = np.float32(-1 if node.op_type == "Sub" else 1)
    ra, rb = np.float32(a.scale) / np.float32(out.scale), sign * np.float32(b.scale) / np.float32(out.scale)
    inner = np.float64(ra) * a.zero_point + np.float64(np.float32(rb * np.float32(b.zero_point)))
    addend = np.float32(out.zero_point - np.float32(inner))
    step = Binary(
        "add",
        second,
        (a.zero_point, a.dtype),
        (b.zero_point, b.dtype),
        _mid(out),
        float(ra),
        float(rb),
        float(addend),
    )
    return Made(Map(), (first,), order, (step,))


def mul(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """Mul of two activations, dimensions of 1 repeated."""
    first, second, order = _pair(walk, node)
    a, b = walk.tensor(first).quantization, walk.tensor(second).quantization
    factor = np.float32(np.float32(a.scale) * np.float32(b.scale)) / np.float32(out.scale)
    step = Binary(
        "mul", second, (a.zero_point, a.dtype), (b.zero_point, b.dtype), _mid(out), float(factor), 0.0, 0.0
    )
    return Made(Map(), (first,), order, (step,))


def _pair(walk: Walk, node: ir.Node) -> tuple[str, str, tuple[int, ...]]:
    """Both operands in one memory order, the one of full size first."""
    if len(node.inputs) != 2:
        raise Unsupported(f"{len(node.inputs)} operands")
    names = [walk.activation(v) for v in node.inputs]
    result = shape_of(node.outputs[0])
    shapes = [walk.tensor(name).onnx_shape for name in names]
    if len(shapes[0]) != len(shapes[1]) or result not in shapes or len(result) > 4:
        raise Unsupported(f"operands of shapes {shapes[0]} and {shapes[1]}")
    if shapes[0] != result:
        if node.op_type == "Sub":
            raise Unsupported("Sub whose first operand is repeated")
        names.reverse()
    order = walk.order(names[0])
    names = [walk.in_order(name, order) for name in names]
    memory = [walk.tensor(name).shape for name in names]
    if any(b not in (1, a) for a, b in zip(*memory, strict=True)):
        raise Unsupported(f"operands of shapes {shapes[0]} and {shapes[1]}")
    return names[0], names[1], order


# --- pooling -------------------------------------------------------------------------------------------


def pool(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """MaxPool (without indices) and AveragePool."""
    name, shape, order, size = image(walk, node)
    rank = len(shape) - 2
    kernel, strides = two(ints(node, "kernel_shape", [1])), two(ints(node, "strides", [1] * rank))
    dilations = two(ints(node, "dilations", [1] * rank))
    pads = spatial_pads(node, size, kernel, strides, dilations)
    window = Window(kernel, strides, dilations, pads)
    quantization = walk.tensor(name).quantization
    if node.op_type == "MaxPool":
        if len(node.outputs) > 1 and node.outputs[1].uses():
            raise Unsupported("indices are not computed")
        if quantization != out:
            raise Unsupported("input and output of MaxPool have different scales")
        return Made(Pool("max", window), (name,), order)
    counted = bool(integer(node, "count_include_pad", 0)) and any(pads)
    if counted and integer(node, "ceil_mode", 0):
        raise Unsupported("count_include_pad with ceil_mode")
    factor = float(np.float32(quantization.scale) / np.float32(out.scale))
    return Made(Pool("average", window, counted, factor), (name,), order)


def mean(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """GlobalAveragePool, and ReduceMean over rows and columns."""
    name, shape, order, size = image(walk, node)
    if len(shape) != 4:
        raise Unsupported("only images")
    if node.op_type == "ReduceMean":
        axes = _axes(walk, node, len(shape))
        if axes != [2, 3] or not integer(node, "keepdims", 1):
            raise Unsupported("only axes 2 and 3 with keepdims")
    if size[0] * size[1] * 255 >= 2**31:
        raise Unsupported("the sum could overflow")
    scale = np.float32(walk.tensor(name).quantization.scale)
    factor = np.float64(scale) / (np.float64(size[0] * size[1]) * np.float64(np.float32(out.scale)))
    return Made(Mean(float(np.float32(factor)), _mid(out)), (name,), order)


def _axes(walk: Walk, node: ir.Node, rank: int) -> list[int]:
    if "axes" in node.attributes:
        axes = ints(node, "axes", [])
    else:
        given = walk.constant(node.inputs[1]) if len(node.inputs) > 1 else None
        axes = list(range(rank)) if given is None else [int(v) for v in given.reshape(-1)]
    return sorted(a % rank for a in axes)


# --- others --------------------------------------------------------------------------------------------


def lrn(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """LRN with beta = 0.75."""
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
    if rank > 4 or shape[axis] > 65535:
        raise Unsupported(f"shape {shape}")
    scale = float(np.float32(walk.tensor(name).quantization.scale))
    table = np.array([round(math.exp(-i * scale) * 2.0**31) for i in range(256)], np.uint64).astype(np.uint32)
    return Made(
        Softmax(table, float(np.float32(1) / np.float32(out.scale))), (walk.in_order(name, order),), order
    )


def concat(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """Concat along any axis; inputs of another scale go through a table."""
    names = [walk.activation(v) for v in node.inputs]
    rank = len(walk.tensor(names[0]).onnx_shape)
    if rank > 4:
        raise Unsupported(f"tensors of rank {rank}")
    order = default_order(rank) if len({walk.order(n) for n in names}) > 1 else walk.order(names[0])
    names = [walk.in_order(name, order) for name in names]
    axis = order.index(integer(node, "axis", 0) % rank)
    tables: list[Array | None] = []
    for name in names:
        quantization = walk.tensor(name).quantization
        table = unary.to_bytes(unary.real_values(quantization), out)
        tables.append(None if quantization == out else table)
    return Made(Concat(axis, tuple(tables)), tuple(names), order)


def pad(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """Pad with a constant that the output's scale can hold."""
    name = walk.activation(node.inputs[0])
    tensor = walk.tensor(name)
    if (
        text(node, "mode", "constant") != "constant"
        or tensor.quantization != out
        or len(tensor.onnx_shape) > 4
    ):
        raise Unsupported("only constant padding, of the same scale, up to rank 4")
    given = walk.constant(node.inputs[1]) if len(node.inputs) > 1 else np.array(ints(node, "pads", []))
    if given is None or (len(node.inputs) > 3 and node.inputs[3] is not None) or (given < 0).any():
        raise Unsupported("pads must be constant and not negative, of all axes")
    value = (
        walk.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(1)
    )
    if value is None:
        raise Unsupported("the value is not constant")
    info = np.iinfo(out.dtype)
    code = int(np.clip(np.rint(float(value.reshape(-1)[0]) / out.scale) + out.zero_point, info.min, info.max))
    order = walk.order(name)
    before = given[: len(order)].astype(int)
    return Made(Pad(tuple(int(before[d]) for d in order), code & 255), (name,), order)


# --- resize --------------------------------------------------------------------------------------------


def resize(walk: Walk, node: ir.Node, out: Quantization) -> Made:
    """Resize of rows and columns, nearest or linear, in every coordinate mode but tf_crop_and_resize."""
    name, shape, order, size = image(walk, node)
    target = shape_of(node.outputs[0])
    mode = text(node, "mode", "nearest")
    coordinates = text(
        node, "coordinate_transformation_mode", "half_pixel" if node.op_type == "Resize" else "asymmetric"
    )
    if len(shape) != 4 or target[:2] != shape[:2]:
        raise Unsupported("only rows and columns")
    if (
        mode not in ("nearest", "linear")
        or coordinates == "tf_crop_and_resize"
        or integer(node, "antialias", 0)
    ):
        raise Unsupported(f"mode {mode}, {coordinates}")
    rounding = text(node, "nearest_mode", "round_prefer_floor" if node.op_type == "Resize" else "floor")
    scales = _resize_scales(walk, node, shape, target)
    tables = [
        _axis_table(n, m, s, mode, coordinates, rounding)
        for n, m, s in zip(size, target[2:], scales, strict=True)
    ]
    quantization = walk.tensor(name).quantization
    factor = np.float32(
        np.float64(np.float32(quantization.scale)) / (np.float64(np.float32(out.scale)) * 2.0**22)
    )
    return Made(Resize(tables[0], tables[1], 4 if mode == "linear" else 1, float(factor)), (name,), order)


def _resize_scales(walk: Walk, node: ir.Node, shape: Sequence[int], target: Sequence[int]) -> list[float]:
    at = 2 if node.op_type == "Resize" and len(node.inputs) > 2 else 1
    given = walk.constant(node.inputs[at]) if len(node.inputs) > at and node.inputs[at] is not None else None
    if given is not None and given.size == len(shape):
        return [float(v) for v in given.reshape(-1)[2:]]
    return [m / n for n, m in zip(shape[2:], target[2:], strict=True)]


def _axis_table(size: int, target: int, scale: float, mode: str, coordinates: str, rounding: str) -> Array:
    """uint16 [target, 4]: two input indices and their weights, which sum to 2048."""
    i = np.arange(target, dtype=np.float64)
    if coordinates == "asymmetric":
        x = i / scale
    elif coordinates == "align_corners":
        x = i * (size - 1) / (target - 1) if target > 1 else i * 0
    elif coordinates == "pytorch_half_pixel":
        x = (i + 0.5) / scale - 0.5 if target > 1 else i * 0
    elif coordinates == "half_pixel_symmetric":
        adjustment = target / (scale * size)
        x = size / 2 * (1 - adjustment) + (i + 0.5) / scale - 0.5
    else:
        x = (i + 0.5) / scale - 0.5
    if mode == "nearest":
        x = x.astype(np.float32).astype(np.float64)  # as onnxruntime computes it
        nearest = {
            "floor": np.floor(x), "ceil": np.ceil(x),
            "round_prefer_ceil": np.floor(x + 0.5), "round_prefer_floor": np.ceil(x - 0.5),
        }[rounding]  # fmt: skip
        index = np.clip(nearest, 0, size - 1)
        return np.stack([index, index, np.full(target, 2048), np.zeros(target)], axis=1).astype(np.uint16)
    x = np.clip(x, 0, size - 1)
    low = np.minimum(np.floor(x), size - 1)
    high = np.minimum(low + 1, size - 1)
    weight = np.rint((x - low) * 2048)
    return np.stack([low, high, 2048 - weight, weight], axis=1).astype(np.uint16)
