"""Functions of a value and a constant for each element: functions of one value, of channels, and choices."""

from __future__ import annotations

import math

import numpy as np

from ommatid.compiler.rewrite import Match, NotFired, Result, Rewrite, need, new, rewrite

#: Different exponents of one Pow.
MOST_EXPONENTS = 16
#: Channels of an image: a field of 16 bits.
MOST_CHANNELS = 65535


@rewrite("y = Pow(x, constant)")
def several_powers(match: Match) -> Result:
    """Pow with several constant exponents chooses between as many powers; onnxruntime takes no unsigned ones."""
    exponents = match.constant("constant")
    different = np.unique(exponents)
    if len(different) == 1 and exponents.dtype.kind != "u":
        raise NotFired("it has one exponent", near=False)
    need(len(different) <= MOST_EXPONENTS, f"{len(different)} exponents (at most {MOST_EXPONENTS})")
    *others, last = (new("Pow", match["x"], np.array(each, np.float32)) for each in different)
    result: Result = last
    for each, part in zip(different, others, strict=False):
        result = new("Where", exponents == each, part, result)
    return result


@rewrite("y = PRelu(x, constant)")
def slope_by_element(match: Match) -> Result:
    """PRelu with a slope for each element is one by channel, of a tensor whose elements are channels."""
    slope, shape = match.constant("constant"), match.shape("x")
    wide = slope.reshape((1,) * (len(shape) - slope.ndim) + slope.shape)
    varies = [d for d, n in enumerate(wide.shape) if n > 1]
    if len(varies) < 2:
        raise NotFired("it varies along one axis at most", near=False)
    inner = shape[varies[0] :]
    need(math.prod(inner) <= MOST_CHANNELS, f"{math.prod(inner)} slopes (at most {MOST_CHANNELS})")
    vector = np.broadcast_to(wide, (*wide.shape[: varies[0]], *inner)).reshape(-1)
    flat = new("Reshape", match["x"], np.array([-1, math.prod(inner)], np.int64))
    return new("Reshape", new("PRelu", flat, vector), np.array(shape, np.int64))


PAIRS: tuple[Rewrite, ...] = (several_powers, slope_by_element)
