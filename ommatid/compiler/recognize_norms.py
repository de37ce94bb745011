"""Layer and root mean square normalisation, which exporters spell out before opsets 17 and 23.

Over another axis than the last, as over an image's channels, it stands between two Transposes. Scale and shift
become the operator's own.
"""

from __future__ import annotations

import numpy as np

from ommatid.compiler.attributes import integer, ints, number
from ommatid.compiler.model import fixed_shape
from ommatid.compiler.rewrite import (
    Array,
    Match,
    New,
    NotFired,
    Result,
    Rewrite,
    constant,
    need,
    new,
    rewrite,
)


def _normalised(match: Match, op: str, axes: tuple[int, ...]) -> New:
    """The operator over these axes of x, with a scale of one."""
    shape = match.shape("x")
    rank, epsilon = len(shape), match.number("constant_epsilon")
    need(epsilon >= 0, f"epsilon is {epsilon:.6g}")
    first = rank - len(axes)
    last = tuple(range(first, rank))
    scale = np.ones([shape[a] for a in axes], np.float32)
    if axes == last:
        return new(op, match["x"], scale, axis=first - rank, epsilon=epsilon)
    need(len(axes) == 1, f"axes {list(axes)} are neither one nor the last")
    perm = [d for d in range(rank) if d not in axes] + list(axes)
    back = [perm.index(d) for d in range(rank)]
    inner = new(op, new("Transpose", match["x"], perm=perm), scale, axis=-1, epsilon=epsilon)
    return new("Transpose", inner, perm=back)


@rewrite(
    """
    mean = ReduceMean(x)
    centred = Sub(x, mean)
    square = Pow(centred, two)
    square = Mul(centred, centred)
    variance = ReduceMean(square)
    shifted = Add(variance, constant_epsilon)
    deviation = Sqrt(shifted)
    deviation = Pow(shifted, half)
    inverse = Reciprocal(deviation)
    inverse = Div(one, deviation)
    inverse = Pow(shifted, minus_half)
    y = Div(centred, deviation)
    y = Mul(centred, inverse)
    """
)
def layer_norm(match: Match) -> Result:
    """(x - mean) / Sqrt(variance + epsilon) is LayerNormalization."""
    axes = match.axes("mean")
    need(
        match.axes("variance") == axes,
        f"mean is over {list(axes)}, variance over {list(match.axes('variance'))}",
    )
    return _normalised(match, "LayerNormalization", axes)


@rewrite(
    """
    square = Pow(x, two)
    square = Mul(x, x)
    mean = ReduceMean(square)
    shifted = Add(mean, constant_epsilon)
    root = Sqrt(shifted)
    root = Pow(shifted, half)
    inverse = Reciprocal(root)
    inverse = Div(one, root)
    inverse = Pow(shifted, minus_half)
    y = Div(x, root)
    y = Mul(x, inverse)
    """,
    opset=23,
)
def rms_norm(match: Match) -> Result:
    """x / Sqrt(mean of squares + epsilon) is RMSNormalization."""
    return _normalised(match, "RMSNormalization", match.axes("mean"))


@rewrite(
    """
    n = LayerNormalization(x, constant_scale)
    n = RMSNormalization(x, constant_scale)
    v = Transpose(n)
    y = Mul(v, constant)
    y = Mul(n, constant)
    """
)
def scaled_norm(match: Match) -> Result:
    """A constant factor over the axes of a normalisation goes into its scale, and into its shift."""
    factor, node = _over_axes(match), match.node("n")
    shift = _shift(match)
    scale = match.constant("constant_scale") * factor
    return _again(match, scale, None if shift is None else shift * factor, node.op_type)


@rewrite(
    """
    n = LayerNormalization(x, constant_scale)
    v = Transpose(n)
    y = Add(v, constant)
    y = Add(n, constant)
    """
)
def shifted_norm(match: Match) -> Result:
    """A constant term over the axes of a layer normalisation goes into its shift."""
    term, shift = _over_axes(match), _shift(match)
    return _again(
        match, match.constant("constant_scale"), term if shift is None else shift + term, "LayerNormalization"
    )


def _shift(match: Match) -> Array | None:
    node = match.node("n")
    value = node.inputs[2] if len(node.inputs) > 2 else None
    need(value is None or constant(value) is not None, "the shift is not constant")
    return constant(value)


def _over_axes(match: Match) -> Array:
    """The constant in the shape of the normalisation's scale."""
    array, shape = match.constant("constant"), match.shape("n")
    rank, node = len(shape), match.node("n")
    perm = _perm(match) if "v" in match else list(range(rank))
    need(array.ndim <= rank, f"the constant has {array.ndim} dimensions, the normalisation {rank}")
    wide = array.reshape((1,) * (rank - array.ndim) + array.shape)
    inner = wide.transpose([perm.index(d) for d in range(rank)])
    first = integer(node, "axis", -1) % rank
    if any(d != 1 for d in inner.shape[:first]) or any(
        a not in (1, b) for a, b in zip(inner.shape, shape, strict=True)
    ):
        raise NotFired(
            f"a constant of shape {list(array.shape)} is not one number for each of the axes normalised"
        )
    return np.broadcast_to(inner, (*inner.shape[:first], *shape[first:])).reshape(shape[first:])


def _perm(match: Match) -> list[int]:
    return ints(match.node("v"), "perm", list(reversed(range(len(fixed_shape(match["v"]) or ())))))


def _again(match: Match, scale: Array, shift: Array | None, op: str) -> New:
    """The normalisation with this scale and shift, and the Transpose behind it if there was one."""
    node = match.node("n")
    parts = [scale.astype(np.float32)] + ([] if shift is None else [shift.astype(np.float32)])
    axis, epsilon = integer(node, "axis", -1), number(node, "epsilon", 1e-5)
    made = new(op, match["x"], *parts, axis=axis, epsilon=epsilon)
    return new("Transpose", made, perm=_perm(match)) if "v" in match else made


NORMS: tuple[Rewrite, ...] = (layer_norm, rms_norm, scaled_norm, shifted_norm)
