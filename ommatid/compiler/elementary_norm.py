"""Normalisations that are made of plainer operators: over several axes, with their statistics, with any power."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ommatid.compiler.attributes import integer, number
from ommatid.compiler.model import trains, used
from ommatid.compiler.rewrite import Match, New, NotFired, Result, Rewrite, constant, need, new, rewrite

#: Channels beyond which a sum over neighbouring ones would need too many weights.
MOST_CHANNELS = 2048


@rewrite("y = LayerNormalization(x, constant_scale)")
def flat_norm(match: Match) -> Result:
    """LayerNormalization over several axes is over one, of a reshaped tensor: the quantiser wants vectors."""
    node, shape = match.node("y"), match.shape("x")
    axis = integer(node, "axis", -1) % len(shape)
    if axis == len(shape) - 1 and match.constant("constant_scale").ndim == 1:
        raise NotFired("it is over one axis", near=False)
    given = [match.constant("constant_scale"), *(constant(value) for value in node.inputs[2:])]
    need(all(part is not None for part in given), "its shift is not constant")
    vectors = [np.broadcast_to(part, shape[axis:]).reshape(-1) for part in given if part is not None]
    flat = new("Reshape", match["x"], np.array([math.prod(shape[:axis]), -1], np.int64))
    normal = new(node.op_type, flat, *vectors, axis=-1, epsilon=number(node, "epsilon", 1e-5))
    return new("Reshape", normal, np.array(shape, np.int64))


@rewrite("y = LayerNormalization(x, constant_scale)")
def norm_statistics(match: Match) -> tuple[Result, ...]:
    """The mean and the inverse deviation of a LayerNormalization, where they are read, are computed beside it."""
    node, rank = match.node("y"), len(match.shape("x"))
    if not any(used(value) for value in node.outputs[1:]):
        raise NotFired("they are not read", near=False)
    axis, epsilon = integer(node, "axis", -1), number(node, "epsilon", 1e-5)
    normal = new(node.op_type, match["x"], *node.inputs[1:], axis=axis, epsilon=epsilon)
    mean = _mean(match, match["x"], list(range(axis % rank, rank)))
    centred = new("Sub", match["x"], mean)
    variance = _mean(match, new("Mul", centred, centred), list(range(axis % rank, rank)))
    return (normal, mean, _inverse_root(variance, epsilon))[: len(node.outputs)]


@rewrite("y = BatchNormalization(x, constant_scale, constant_shift, constant_mean, constant_variance)")
def batch_statistics(match: Match) -> tuple[Result, ...]:
    """A BatchNormalization that trains takes mean and variance of its input, and adds some of them to what it had."""
    node, shape = match.node("y"), match.shape("x")
    if not trains(node):
        raise NotFired("it is not for training", near=False)
    axes, vector = [d for d in range(len(shape)) if d != 1], [-1, *[1] * (len(shape) - 2)]
    mean = _mean(match, match["x"], axes)
    centred = new("Sub", match["x"], mean)
    variance = _mean(match, new("Mul", centred, centred), axes)
    inverse = _inverse_root(variance, number(node, "epsilon", 1e-5))
    scale, shift = (match.constant(name).reshape(vector) for name in ("constant_scale", "constant_shift"))
    normal = new("Add", new("Mul", new("Mul", centred, inverse), scale), shift)
    kept = np.float32(number(node, "momentum", 0.9))
    before = (match.constant("constant_mean"), match.constant("constant_variance"))
    running = (
        new("Add", new("Mul", new("Reshape", now, np.array([-1], np.int64)), np.array(1 - kept)), kept * old)
        for now, old in zip((mean, variance), before, strict=True)
    )
    return (normal, *running)[: len(node.outputs)]


def _inverse_root(variance: New, epsilon: float) -> New:
    return new("Reciprocal", new("Sqrt", new("Add", variance, np.array(epsilon, np.float32))))


def _mean(match: Match, x: Any, axes: list[int]) -> New:
    """A mean over axes that become 1; from opset 18 on they are an input."""
    if (match.model.graph.opset_imports.get("") or 0) < 18:
        return new("ReduceMean", x, axes=axes)
    return new("ReduceMean", x, np.array(axes, np.int64))


@rewrite("y = LRN(x)")
def any_power(match: Match) -> Result:
    """LRN with a beta of its own: neighbours' squares are summed by a convolution, their power is a function of one value."""
    node, shape = match.node("y"), match.shape("x")
    size, beta = integer(node, "size", 1), number(node, "beta", 0.75)
    if beta == 0.75:
        raise NotFired("its beta is 0.75", near=False)
    need(len(shape) in (3, 4) and shape[1] <= MOST_CHANNELS, f"shape {list(shape)}")
    apart = np.arange(shape[1])[None] - np.arange(shape[1])[:, None]
    near = (apart >= -((size - 1) // 2)) & (apart <= size // 2)
    weights = np.float32(number(node, "alpha", 1e-4) / size) * near.reshape(
        *near.shape, *[1] * (len(shape) - 2)
    )
    bias = np.full(shape[1], number(node, "bias", 1.0), np.float32)
    sums = new("Conv", new("Mul", match["x"], match["x"]), weights.astype(np.float32), bias)
    return new("Mul", match["x"], new("Pow", sums, np.array(-beta, np.float32)))


SPELLED_OUT: tuple[Rewrite, ...] = (norm_statistics, batch_statistics, any_power)
