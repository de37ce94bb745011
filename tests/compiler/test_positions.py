"""Nodes that rearrange positions along dimensions that differ between variants are found, and no others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from ommatid.compiler.model import import_model
from ommatid.compiler.positions import rearranging
from tests import networks

H, W, BOTH = [(1, 4, 2, 6), (1, 4, 4, 6)], [(1, 4, 2, 6), (1, 4, 2, 12)], [(1, 4, 2, 6), (1, 4, 4, 12)]
BATCH = [(1, 4, 2, 6), (2, 4, 2, 6)]


def found(
    op: str, shapes: list[tuple[int, ...]], *constants: Any, inputs: int = 1, **attributes: Any
) -> bool:
    """Whether a model of that node, reading x, rearranges."""
    table = {f"c{i}": np.array(c, np.int64) for i, c in enumerate(constants)}
    outputs = ["y", "z"] if op == "Split" else ["y"]
    node = helper.make_node(op, ["x"] * inputs + list(table), outputs, "node", **attributes)
    model = networks.model([node], {"x": ["n", 4, "h", "w"]}, dict.fromkeys(outputs), table)
    names = rearranging([import_model(model, {"x": shape}) for shape in shapes])
    assert names in ([], ["node"])
    return bool(names)


@pytest.mark.parametrize("shape, height, width, both, batch", [
    ([0, 4, -1], False, True, True, False),  # rows and columns are merged
    ([0, 0, -1, 3], None, True, True, False),  # columns are inner to rows
    ([0, 0, 0, -1, 3], False, False, False, False),  # columns are split, and outermost
    ([0, 0, 0, -1, 1], False, False, False, False),
    ([0, 0, 0, 3, -1], False, True, True, False),  # each third of the columns
    ([0, 2, 2, -1, 6], False, None, None, False),  # channels are split
    ([-1, 2, 6], True, None, None, False),  # batch, channels and pairs of rows are merged
    ([-1, 6], True, None, None, False),  # rows are inner to channels
])  # fmt: skip
def test_reshape(shape: list[int], height: Any, width: Any, both: Any, batch: Any) -> None:
    for variants, wanted in ((H, height), (W, width), (BOTH, both), (BATCH, batch)):
        if wanted is not None:
            assert found("Reshape", variants, shape) is wanted, (variants, shape)


def test_flatten() -> None:
    assert found("Flatten", H) and found("Flatten", W) and found("Flatten", W, axis=2)
    assert not found("Flatten", W, axis=3) and not found("Flatten", H, axis=2) and not found("Flatten", BATCH)


@pytest.mark.parametrize("op, given", [("Concat", {"inputs": 2}), ("Split", {})])
def test_along_a_dimension_that_differs(op: str, given: dict[str, Any]) -> None:
    for axis in (3, -1):
        assert found(op, W, axis=axis, **given) and not found(op, H, axis=axis, **given)


def test_gather_and_tile() -> None:
    assert found("Gather", W, [1, 0], axis=3) and not found("Gather", W, [1, 0], axis=1)
    assert found("Tile", W, [1, 1, 1, 2]) and not found("Tile", W, [1, 2, 2, 1])


@pytest.mark.parametrize("begin, end, step, wanted", [
    (0, 2**40, 2, False), (1, 2**40, 2, False), (-4, 2**40, 1, True), (-1, -(2**40), -1, True),
])  # fmt: skip
def test_slice(begin: int, end: int, step: int, wanted: bool) -> None:
    assert found("Slice", W, [begin], [end], [3], [step]) is wanted
    assert not found("Slice", H, [begin], [end], [3], [step])


def test_what_works_position_by_position() -> None:
    assert not found("Relu", BOTH) and not found("Transpose", BOTH, perm=[0, 3, 1, 2])
    assert not found("MaxPool", BOTH, kernel_shape=[2, 2]) and not found("GlobalAveragePool", BOTH)
