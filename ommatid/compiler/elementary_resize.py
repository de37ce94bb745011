"""Resize with more taps than the instruction has: a product with a constant matrix along each axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.compiler.attributes import integer, text
from ommatid.compiler.interpolation import axes_of, coordinates_of, inside, matrix, positions
from ommatid.compiler.rewrite import Match, NotFired, Result, Rewrite, constant, need, new, rewrite

#: Weights of one product.
MOST_WEIGHTS = 2**22


@rewrite("y = Resize(x)")
def many_taps(match: Match) -> Result:
    """A cubic Resize, or one against aliasing, is linear in its input: a MatMul along each axis that it changes."""
    node, shape, target = match.node("y"), match.shape("x"), match.shape("y")
    mode, coordinates = text(node, "mode", "nearest"), coordinates_of(node)
    if mode != "cubic" and not (mode == "linear" and integer(node, "antialias", 0)):
        raise NotFired("two taps are enough", near=False)
    need(all(constant(v) is not None for v in node.inputs[1:] if v is not None), "its sizes are not constant")
    result: Result = match["x"]
    for d, axis in enumerate(axes_of(node, shape, target, constant)):
        whole = inside(positions(axis, coordinates), axis, coordinates) == slice(0, axis.target)
        need(whole, "its crop goes beyond the image")
        need(axis.size * axis.target <= MOST_WEIGHTS, f"{axis.size} by {axis.target} weights are too many")
        weights = matrix(node, axis, coordinates).astype(np.float32)
        if weights.shape[0] != weights.shape[1] or not np.allclose(weights, np.eye(len(weights)), atol=1e-6):
            result = _along(result, d, len(shape), weights.T)
    need(result is not match["x"], "it changes nothing")
    return result


def _along(value: Any, axis: int, rank: int, weights: Any) -> Result:
    """The product of an axis with weights [input, result]."""
    if axis == rank - 1:
        return new("MatMul", value, weights)
    perm = list(range(rank))
    perm[axis], perm[-1] = rank - 1, axis
    return new("Transpose", new("MatMul", new("Transpose", value, perm=perm), weights), perm=perm)


RESIZES: tuple[Rewrite, ...] = (many_taps,)
