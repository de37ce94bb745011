"""Operators that others can stand for: what no rule of the NPU, or of the quantiser, takes as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from ommatid.compiler.attributes import integer, ints, number, text, ungrouped
from ommatid.compiler.model import trains
from ommatid.compiler.rewrite import Match, NotFired, Result, Rewrite, constant, need, new, on, rewrite

#: Weights that a convolution may get by becoming a plainer one.
MOST_WEIGHTS = 2**22


@rewrite("y = Gemm(x)")
def plain_gemm(match: Match) -> Result:
    """Gemm with factors, a turned first operand or a bias that is no vector: MatMul, Mul, Transpose and Add."""
    node = match.node("y")
    second, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    turned, alpha, beta = integer(node, "transA", 0), number(node, "alpha", 1.0), number(node, "beta", 1.0)
    vector = bias is None or tuple(bias.shape or ()) == (match.shape("y")[1],)
    if not turned and alpha == beta == 1 and vector and second is not None and second.const_value is not None:
        raise NotFired("it is plain", near=False)
    weights = constant(second)
    first: Result = new("Transpose", match["x"], perm=[1, 0]) if turned else match["x"]
    if weights is not None:
        scaled = weights * np.float32(alpha)
        product = new("MatMul", first, scaled.T if integer(node, "transB", 0) else scaled)
    else:
        other = new("Transpose", second, perm=[1, 0]) if integer(node, "transB", 0) else second
        product = _times(new("MatMul", first, other), alpha)
    if bias is None:
        return product
    shift = constant(bias)
    return new("Add", product, _times(bias, beta) if shift is None else shift * np.float32(beta))


def _times(value: Any, factor: float) -> Any:
    return value if factor == 1 else new("Mul", value, np.array(factor, np.float32))


@rewrite(
    """
    y = ReduceL1(x)
    y = ReduceL2(x)
    y = ReduceSumSquare(x)
    y = ReduceLogSum(x)
    """
)
def reduced_sum(match: Match) -> Result:
    """Sums of absolute values or squares, their root and logarithm are a function, ReduceSum and another one."""
    node = match.node("y")
    x: Result = match["x"]
    if node.op_type == "ReduceL1":
        x = new("Abs", x)
    elif node.op_type != "ReduceLogSum":
        x = new("Mul", x, x)
    axes = np.array(ints(node, "axes", []), np.int64) if "axes" in node.attributes else node.inputs[1:2]
    given = (axes,) if isinstance(axes, np.ndarray) else tuple(axes)
    keep = {
        name: integer(node, name, default) for name, default in (("keepdims", 1), ("noop_with_empty_axes", 0))
    }
    total = new("ReduceSum", x, *given, **keep)
    after = {"ReduceL2": "Sqrt", "ReduceLogSum": "Log"}.get(node.op_type)
    return new(after, total) if after else total


@rewrite("y = ConvTranspose(x, constant_w)")
def one_group(match: Match) -> Result:
    """ConvTranspose of several groups is one of a single group, with zeros between channels of different groups."""
    node = match.node("y")
    group = integer(node, "group", 1)
    if group == 1:
        raise NotFired("it has one group", near=False)
    weights = match.constant("constant_w")
    need(weights.size * group <= MOST_WEIGHTS, "its weights would become too many")
    wide = ungrouped(weights, group)
    attributes = {name: value.value for name, value in node.attributes.items() if name != "group"}
    return new("ConvTranspose", match["x"], wide, *node.inputs[2:], **attributes)


@rewrite(
    """
    y = Conv(x, constant_w)
    y = ConvTranspose(x, constant_w)
    """
)
def volume_conv(match: Match) -> Result:
    """A convolution in three dimensions is one in two, whose channels are those of all slices."""
    node, shape, result = match.node("y"), match.shape("x"), match.shape("y")
    if len(shape) != 5:
        raise NotFired("it has fewer dimensions", near=False)
    given = text(node, "auto_pad", "NOTSET") == "NOTSET" and "output_shape" not in node.attributes
    need(given, "its padding is not given")
    weights, slices, results = match.constant("constant_w"), shape[2], result[2]
    need(weights[:, :, 0].size * slices * results <= MOST_WEIGHTS, "its weights would become too many")
    pads, strides, dilations, more = (
        ints(node, name, [default] * count)
        for name, default, count in (
            ("pads", 0, 6),
            ("strides", 1, 3),
            ("dilations", 1, 3),
            ("output_padding", 0, 3),
        )
    )
    forward = node.op_type == "Conv"
    outer, inner = (results, slices) if forward else (slices, results)
    wide = np.zeros((len(weights), outer, weights.shape[1], inner, *weights.shape[3:]), weights.dtype)
    for place in range(outer):
        for k in range(weights.shape[2]):
            other = place * strides[0] + k * dilations[0] - pads[0]
            if 0 <= other < inner:
                wide[:, place, :, other] = weights[:, :, k]
    wide = wide.reshape(len(weights) * outer, -1, *weights.shape[3:])
    biases = [constant(value) for value in node.inputs[2:3]]
    need(all(bias is not None for bias in biases), "its bias is not constant")
    plane: dict[str, Any] = {
        "strides": strides[1:],
        "dilations": dilations[1:],
        "pads": [*pads[1:3], *pads[4:]],
    }
    plane["group"] = integer(node, "group", 1)  # a group's channels stay together
    if not forward:
        plane["output_padding"] = more[1:]
    flat = new("Reshape", match["x"], np.array([shape[0], -1, *shape[3:]], np.int64))
    made = new(node.op_type, flat, wide, *(np.repeat(b, results) for b in biases if b is not None), **plane)
    return new("Reshape", made, np.array(result, np.int64))


@rewrite(
    """
    y = Sum(x)
    y = ReduceSum(x)
    y = ReduceMean(x)
    y = ReduceMax(x)
    y = ReduceMin(x)
    """
)
def of_one(match: Match) -> Result:
    """A Sum of one, and a reduction of nothing, go."""
    node = match.node("y")
    if node.op_type == "Sum":
        alone = len(node.inputs) == 1
    else:
        given = node.inputs[1] if len(node.inputs) > 1 else None
        axes = constant(given) if given is not None else np.zeros(0)
        empty = axes is not None and axes.size == 0 and "axes" not in node.attributes
        alone = empty and bool(integer(node, "noop_with_empty_axes", 0))
    if not alone:
        raise NotFired("it changes its input", near=False)
    return new("Identity", match["x"])


@rewrite(
    """
    y = MatMul(a)
    y = MatMul(constant)
    """
)
def dot(match: Match) -> Result:
    """A product of two vectors is one of two matrices."""
    operands = match.node("y").inputs
    if any(value is None or len(value.shape or ()) != 1 for value in operands):
        raise NotFired("one of them is a matrix", near=False)
    shapes = (np.array(shape, np.int64) for shape in ((1, -1), (-1, 1)))
    row, column = (new("Reshape", value, shape) for value, shape in zip(operands, shapes, strict=True))
    return new("Reshape", new("MatMul", row, column), np.zeros(0, np.int64))


@on("Dropout")
def plain_dropout(model: ir.Model, node: ir.Node) -> Callable[[], None]:
    """A Dropout that drops nothing needs no ratio, which would be quantised."""
    if len(node.inputs) == 1 or trains(node):
        raise NotFired("it is plain, or for training", near=False)
    return lambda: node.resize_inputs(1)


ELEMENTARY: tuple[Rewrite, ...] = (
    plain_gemm, reduced_sum, one_group, volume_conv, of_one, dot, plain_dropout,
)  # fmt: skip
