"""Affine functions by channel: into the weights of a convolution, or several of them into one.

BatchNormalization, and Add and Mul of a constant that is one number for each channel, are such functions. One
number for all channels is folded late: it may belong to a function that is spelled out, such as h-swish.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ommatid.compiler.attributes import integer, ints, number, text
from ommatid.compiler.model import fixed_shape, trains
from ommatid.compiler.rewrite import (
    Array,
    Match,
    NotFired,
    Result,
    Rewrite,
    constant,
    label,
    need,
    new,
    new_constant,
    on,
    rewrite,
)  # fmt: skip


@dataclass(frozen=True)
class Affine:
    """slope * source + shift, vectors of float64 over axis 1; ``scalar``: one number for all channels."""

    source: ir.Value
    slope: Array
    shift: Array
    scalar: bool = False


def affine(node: ir.Node) -> Affine:
    """The affine function by channel that a BatchNormalization, Mul or Add is.

    Raises:
        NotFired: it is none.
    """
    if node.op_type == "BatchNormalization":
        return _batch_norm(node)
    first, second = node.inputs[:2]
    source, array = (second, constant(first)) if constant(first) is not None else (first, constant(second))
    if source is None or array is None:
        raise NotFired("neither operand is constant", near=False)
    shape = fixed_shape(source)
    if shape is None or len(shape) < 2 or shape != fixed_shape(node.outputs[0]):
        raise NotFired("the constant changes the shape")
    vector = _by_channel(array.astype(np.float64), shape)
    one, zero = np.ones(shape[1]), np.zeros(shape[1])
    slope, shift = (vector, zero) if node.op_type == "Mul" else (one, vector)
    return Affine(source, slope, shift, array.size == 1)


def _batch_norm(node: ir.Node) -> Affine:
    parts = [constant(v) for v in node.inputs[1:5]]
    if node.inputs[0] is None or any(p is None for p in parts):
        raise NotFired("its parameters are not constant")
    need(not trains(node), "it is for training")
    gamma, beta, mean, variance = (np.asarray(p, np.float64) for p in parts)
    slope = gamma / np.sqrt(variance + number(node, "epsilon", 1e-5))
    return Affine(node.inputs[0], slope, beta - mean * slope)


def _by_channel(array: Array, shape: tuple[int, ...]) -> Array:
    """A constant as a vector over axis 1 of a tensor of this shape."""
    if array.size == 1:
        return np.full(shape[1], array.reshape(-1)[0])
    padded = (1,) * (len(shape) - array.ndim) + array.shape
    need(
        padded[1:2] == (shape[1],) and array.size == shape[1],
        f"a constant of shape {list(array.shape)} is not by channel",
    )
    return array.reshape(-1)


def _alone(value: ir.Value, *operators: str) -> ir.Node:
    """The producer of a value that nobody else uses, one of these operators."""
    node = value.producer()
    if node is None or node.op_type not in operators:
        raise NotFired(f"{label(value)} is not {' or '.join(operators)}", near=False)
    need(not value.is_graph_output(), f"the result of {node.name!r} is an output of the network")
    need(len(value.uses()) == 1, f"the result of {node.name!r} ({node.op_type}) is also used elsewhere")
    return node


def _parameters(conv: ir.Node) -> tuple[Array, Array]:
    """Weights, and bias in float64."""
    weights = constant(conv.inputs[1])
    given = conv.inputs[2] if len(conv.inputs) > 2 else None
    bias = constant(given)
    if weights is None or (given is not None and bias is None):
        raise NotFired(f"the weights or bias of {conv.name!r} are not constant")
    outputs = len(weights) if conv.op_type == "Conv" else weights.shape[1]
    return weights, np.zeros(outputs) if bias is None else bias.astype(np.float64)


def _scaled(weights: Array, factors: Array, axis: int) -> Array:
    """Weights times factors (float64) by what lies along an axis, rounded once to float32."""
    result = np.empty(weights.shape, np.float32)
    spread = factors.reshape([-1 if d == axis else 1 for d in range(weights.ndim)])
    return np.multiply(weights, spread, out=result, dtype=np.float64, casting="same_kind")


def _set_parameters(model: ir.Model, conv: ir.Node, weights: Array, bias: Array) -> None:
    if len(conv.inputs) < 3:
        conv.resize_inputs(3)
    for i, array in ((1, weights), (2, bias)):
        value = new_constant(
            model, f"{conv.outputs[0].name}__folded{i}", array.astype(np.float32, copy=False)
        )
        conv.replace_input_with(i, value)


def _behind(model: ir.Model, node: ir.Node, scalars: bool) -> Callable[[], None]:
    source, other = node.inputs[:2]
    if constant(source) is not None:
        source, other = other, source
    if source is None or constant(other) is None:
        raise NotFired("neither operand is constant", near=False)
    conv = _alone(source, "Conv", "ConvTranspose")
    function = affine(node)
    if function.scalar and not scalars:
        raise NotFired("one number for all channels is folded last", near=False)
    need(conv.op_type == "Conv" or integer(conv, "group", 1) == 1, f"{conv.name!r} is grouped")
    weights, bias = _parameters(conv)

    def act() -> None:
        scaled = _scaled(weights, function.slope, 0 if conv.op_type == "Conv" else 1)
        _set_parameters(model, conv, scaled, bias * function.slope + function.shift)
        result, name = node.outputs[0], node.outputs[0].name
        ir.convenience.replace_all_uses_with(result, conv.outputs[0], replace_graph_outputs=True)
        result.name = f"{name}__folded"
        conv.outputs[0].name = name
        model.graph.remove(node, safe=True)

    return act


@on("BatchNormalization", "Mul", "Add")
def behind_convolution(model: ir.Model, node: ir.Node) -> Callable[[], None]:
    """BatchNormalization(Conv(x)), or Mul or Add of a vector over the channels, is the convolution alone."""
    return _behind(model, node, scalars=False)


@on("Mul", "Add")
def number_behind_convolution(model: ir.Model, node: ir.Node) -> Callable[[], None]:
    """Mul or Add of one number behind a convolution goes into it."""
    return _behind(model, node, scalars=True)


@on("Conv")
def before_convolution(model: ir.Model, node: ir.Node) -> Callable[[], None]:
    """Conv(BatchNormalization(x)) without padding is the convolution alone."""
    if node.inputs[0] is None:
        raise NotFired("it has no input", near=False)
    norm = _alone(node.inputs[0], "BatchNormalization")
    function = affine(norm)
    need(not any(ints(node, "pads", [])), "its padding is zero behind the normalisation, not before it")
    need(text(node, "auto_pad", "NOTSET") in ("NOTSET", "", "VALID"), "it pads by itself")
    need(integer(node, "group", 1) == 1, "it is grouped")
    weights, bias = _parameters(node)

    def act() -> None:
        sums = weights.reshape(*weights.shape[:2], -1).sum(axis=2, dtype=np.float64)
        _set_parameters(model, node, _scaled(weights, function.slope, 1), bias + sums @ function.shift)
        node.replace_input_with(0, function.source)
        model.graph.remove(norm, safe=True)

    return act


@rewrite(
    """
    a = Mul(x, constant)
    a = Add(x, constant)
    a = BatchNormalization(x)
    y = Mul(a, constant_2)
    y = Add(a, constant_2)
    y = BatchNormalization(a)
    """
)
def chain(match: Match) -> Result:
    """Two affine functions by channel are one BatchNormalization, unless both are of one number: those are a table."""
    last = affine(match.node("y"))
    first = affine(_alone(last.source, "Mul", "Add", "BatchNormalization"))
    need(not (first.scalar and last.scalar), "both are of one number")
    maker = first.source.producer()
    need(
        maker is None or maker.op_type not in ("Conv", "ConvTranspose"), "the first goes into the convolution"
    )
    slope, shift = first.slope * last.slope, first.shift * last.slope + last.shift
    zero, one = np.zeros(len(slope), np.float32), np.ones(len(slope), np.float32)
    return new(
        "BatchNormalization",
        first.source,
        slope.astype(np.float32),
        shift.astype(np.float32),
        zero,
        one,
        epsilon=0.0,
    )


@rewrite("y = Div(x, constant)")
def product(match: Match) -> Result:
    """Div by a constant is Mul by its inverse."""
    array = match.constant("constant")
    need(array.dtype.kind == "f" and bool(np.all(array != 0)), "the constant is no float, or zero")
    return new("Mul", match["x"], (1 / array.astype(np.float64)).astype(array.dtype))


@rewrite("y = Sub(x, constant)")
def total(match: Match) -> Result:
    """Sub of a constant is Add of its negative."""
    array = match.constant("constant")
    need(array.dtype.kind == "f", "the constant is no float")
    return new("Add", match["x"], -array)


@rewrite("y = Pow(x, constant)")
def power(match: Match) -> Result:
    """Pow by a half, one or minus one is Sqrt, nothing or Reciprocal."""
    exponent = match.number("constant")
    need(match.shape("x") == match.shape("y"), "the exponent changes the shape")
    if exponent == 1:
        return match["x"]
    operators = {0.5: "Sqrt", -1.0: "Reciprocal"}
    if exponent not in operators:
        raise NotFired(f"the exponent is {exponent:.6g}", near=False)
    return new(operators[exponent], match["x"])


AFFINE: tuple[Rewrite, ...] = (product, total, power, behind_convolution, before_convolution)
LATE: tuple[Rewrite, ...] = (number_behind_convolution, before_convolution, chain)
