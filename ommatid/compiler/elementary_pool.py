"""Pooling that is made of plainer pooling: in three dimensions, and with padding that counts but has an end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ommatid.compiler.attributes import integer, ints, text
from ommatid.compiler.rewrite import Match, New, NotFired, Result, Rewrite, new, rewrite


@dataclass(frozen=True)
class Axis:
    """A window's kernel, stride, dilation and padding before and behind, along one axis."""

    kernel: int
    stride: int
    dilation: int
    begin: int
    end: int


def _axes(match: Match) -> list[Axis]:
    """The window along each axis, padded behind just as far as the last window reaches."""
    node, size, out = match.node("y"), match.shape("x")[2:], match.shape("y")[2:]
    rank, mode = len(size), text(node, "auto_pad", "NOTSET")
    kernel, pads = ints(node, "kernel_shape", []), ints(node, "pads", [0] * 2 * rank)
    strides, dilations = (ints(node, name, [1] * rank) for name in ("strides", "dilations"))
    axes = []
    for n, m, k, s, d, begin in zip(size, out, kernel, strides, dilations, pads, strict=False):
        reach = (m - 1) * s + (k - 1) * d + 1
        if mode.startswith("SAME"):
            begin = (max(reach - n, 0) + (mode == "SAME_LOWER")) // 2
        axes.append(Axis(k, s, d, begin, max(reach - n - begin, 0)))
    return axes


def _pool(op: str, source: Any, axes: list[Axis], **attributes: Any) -> New:
    """A pooling node; without dilations where there are none: onnxruntime's quantised AveragePool knows no such."""
    if any(a.dilation > 1 for a in axes):
        attributes["dilations"] = [a.dilation for a in axes]
    pads = [a.begin for a in axes] + [a.end for a in axes]
    kernel, strides = [a.kernel for a in axes], [a.stride for a in axes]
    return new(op, source, kernel_shape=kernel, strides=strides, pads=pads, **attributes)


@rewrite(
    """
    y = MaxPool(x)
    y = AveragePool(x)
    """
)
def volume_pool(match: Match) -> Result:
    """Pooling in three dimensions is pooling of rows and columns, and then of slices.

    A mean of means is the mean: a window's taps inside are a box, so that all of its slices have as many of them.
    """
    node, shape, result = match.node("y"), match.shape("x"), match.shape("y")
    if len(shape) != 5 or _counts_to_an_end(match):
        raise NotFired("it is no plain pooling in three dimensions", near=False)
    depth, *plane = _axes(match)
    counted = {"count_include_pad": 1} if integer(node, "count_include_pad", 0) else {}
    n, c, slices, height, width = shape
    _, _, _, rows, columns = result
    pools = _pool(node.op_type, _shaped(match["x"], n, c * slices, height, width), plane, **counted)
    thin = [depth, Axis(1, 1, 1, 0, 0)]
    pools = _pool(node.op_type, _shaped(pools, n, c, slices, rows * columns), thin, **counted)
    return _shaped(pools, *result)


def _shaped(value: Any, *shape: int) -> New:
    return new("Reshape", value, np.array(shape, np.int64))


def _counts_to_an_end(match: Match) -> bool:
    """Whether padding counts, but what ceil_mode adds behind it does not."""
    node = match.node("y")
    given = text(node, "auto_pad", "NOTSET") == "NOTSET"
    return bool(given and integer(node, "count_include_pad", 0) and integer(node, "ceil_mode", 0))


@rewrite("y = AveragePool(x)")
def padded_pool(match: Match) -> Result:
    """Averages over padding that counts, but not over what ceil_mode adds behind it, are those of a padded image."""
    if not _counts_to_an_end(match):
        raise NotFired("padding counts or it does not", near=False)
    node, axes = match.node("y"), _axes(match)
    rank = len(axes)
    given = ints(node, "pads", [0] * 2 * rank)
    source: Result = match["x"]
    if any(given):
        amounts = np.array([0, 0, *given[:rank], 0, 0, *given[rank:]], np.int64)
        source = new("Pad", source, amounts)
    beyond = [max(axis.end - behind, 0) for axis, behind in zip(axes, given[rank:], strict=True)]
    inside = [replace(axis, begin=0, end=end) for axis, end in zip(axes, beyond, strict=True)]
    return _pool("AveragePool", source, inside)


POOLS: tuple[Rewrite, ...] = (volume_pool, padded_pool)
