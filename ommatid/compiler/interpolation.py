"""What Resize computes along one axis: where each result lies among the inputs, and how much of each it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ommatid.compiler.attributes import integer, ints, number, text

Array = np.ndarray[Any, Any]

#: Of a table's pair of weights.
WHOLE = 2048


@dataclass(frozen=True)
class Axis:
    """Elements of input and result along an axis, the factor between them, and what part of the input is taken."""

    size: int
    target: int
    scale: float
    begin: float = 0.0
    end: float = 1.0


def axes_of(
    node: ir.Node,
    shape: Sequence[int],
    target: Sequence[int],
    read: Callable[[ir.Value | None], Array | None],
) -> list[Axis]:
    """Every axis of a Resize or Upsample; ``read`` gives the numbers of a constant."""
    roi, scales, sizes = _parameters(node, read)
    rank = len(shape)
    named = [axis % rank for axis in ints(node, "axes", range(rank))]
    factors = [m / n for n, m in zip(shape, target, strict=True)]
    regions = [(0.0, 1.0)] * rank
    if sizes is not None and text(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        of = min if text(node, "keep_aspect_ratio_policy", "") == "not_larger" else max
        same = of(wanted / shape[axis] for axis, wanted in zip(named, sizes.tolist(), strict=True))
        factors = [same if axis in named else 1.0 for axis in range(rank)]
    for i, axis in enumerate(named):
        if scales is not None:
            factors[axis] = float(scales[i])
        if roi is not None:
            regions[axis] = float(roi[i]), float(roi[i + len(named)])
    return [Axis(n, m, f, *r) for n, m, f, r in zip(shape, target, factors, regions, strict=True)]


def _parameters(
    node: ir.Node, read: Callable[[ir.Value | None], Array | None]
) -> tuple[Array | None, Array | None, Array | None]:
    """Region, scales and sizes, None where they are not given; before opset 11 there are scales alone."""
    inputs = [*node.inputs, None, None, None]
    values = inputs[1:4] if node.op_type == "Resize" and len(node.inputs) > 2 else [None, inputs[1], None]
    read_ = [read(value) for value in values]
    roi, scales, sizes = (array.reshape(-1) if array is not None and array.size else None for array in read_)
    return roi, scales, sizes


def coordinates_of(node: ir.Node) -> str:
    """The name of what ``positions`` computes."""
    default = "half_pixel" if node.op_type == "Resize" else "asymmetric"
    return text(node, "coordinate_transformation_mode", default)


def positions(axis: Axis, coordinates: str) -> Array:
    """Where the results lie among the inputs (float64 [target]); without an input beside them, outside."""
    i, size, target, scale = np.arange(axis.target, dtype=np.float64), axis.size, axis.target, axis.scale
    if coordinates == "asymmetric":
        return i / scale
    if coordinates == "align_corners":
        return i * (size - 1) / (target - 1) if target > 1 else i * 0
    if coordinates == "tf_crop_and_resize":
        step = (axis.end - axis.begin) * (size - 1) / max(target - 1, 1)
        first = axis.begin if target > 1 else (axis.begin + axis.end) / 2
        return first * (size - 1) + i * step
    if coordinates == "pytorch_half_pixel" and target == 1:
        return i * 0
    shift = size / 2 * (1 - target / (scale * size)) if coordinates == "half_pixel_symmetric" else 0.0
    return shift + (i + 0.5) / scale - 0.5


def inside(x: Array, axis: Axis, coordinates: str) -> slice:
    """The results that inputs make; those of a crop outside the image have a value of their own."""
    if coordinates != "tf_crop_and_resize":
        return slice(0, len(x))
    room = 1e-5 * axis.size
    (places,) = np.nonzero((x >= -room) & (x <= axis.size - 1 + room))
    return slice(int(places[0]), int(places[-1]) + 1) if places.size else slice(0, 0)


def nearest_table(x: Array, size: int, rounding: str) -> Array:
    """uint16 [target, 4]: an input twice, and a weight of WHOLE and 0."""
    x = x.astype(np.float32).astype(np.float64)  # as onnxruntime computes it
    nearest = {
        "floor": np.floor(x), "ceil": np.ceil(x),
        "round_prefer_ceil": np.floor(x + 0.5), "round_prefer_floor": np.ceil(x - 0.5),
    }[rounding]  # fmt: skip
    index = np.clip(nearest, 0, size - 1)
    return np.stack([index, index, np.full_like(x, WHOLE), np.zeros_like(x)], axis=1).astype(np.uint16)


def linear_table(x: Array, size: int) -> Array:
    """uint16 [target, 4]: two inputs and their weights, which sum to WHOLE."""
    x = np.clip(x, 0, size - 1)
    low = np.floor(x)
    high = np.minimum(low + 1, size - 1)
    weight = np.rint((x - low) * WHOLE)
    return np.stack([low, high, WHOLE - weight, weight], axis=1).astype(np.uint16)


def matrix(node: ir.Node, axis: Axis, coordinates: str) -> Array:
    """float64 [target, size]: how much each result takes of each input, linear or cubic, against aliasing or not."""
    x, a = positions(axis, coordinates), number(node, "cubic_coeff_a", -0.75)
    stretch = max(1.0, 1 / axis.scale) if integer(node, "antialias", 0) else 1.0
    cubic = text(node, "mode", "nearest") == "cubic"
    reach = int(np.ceil((2 if cubic else 1) * stretch))
    taps = np.floor(x)[:, None] + np.arange(1 - reach, reach + 1)
    distance = np.abs(taps - x[:, None]) / stretch
    weights = _cubic(distance, a) if cubic else np.maximum(1 - distance, 0)
    if integer(node, "exclude_outside", 0):
        weights = np.where((taps >= 0) & (taps < axis.size), weights, 0)
    weights /= weights.sum(axis=1, keepdims=True)
    result = np.zeros((axis.target, axis.size))
    rows = np.broadcast_to(np.arange(axis.target)[:, None], taps.shape)
    np.add.at(result, (rows, np.clip(taps, 0, axis.size - 1).astype(np.int64)), weights)
    return result


def _cubic(distance: Array, a: float) -> Array:
    """Keys' kernel."""
    d, d2, d3 = distance, distance**2, distance**3
    near, far = (a + 2) * d3 - (a + 3) * d2 + 1, a * (d3 - 5 * d2 + 8 * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0))
