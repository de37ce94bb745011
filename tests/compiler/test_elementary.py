"""Operators that others stand for: the same numbers from operators that the NPU takes, and plain ones as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.compiler.canonical import canonical, operators

RNG = np.random.default_rng(0)
X: dict[str, Any] = {"x": [6, 8]}
IMAGE: dict[str, Any] = {"x": [1, 6, 5, 4]}
VOLUME: dict[str, Any] = {"x": [2, 6, 4, 5, 3]}
CONSTANTS: dict[str, Any] = {
    "w": RNG.standard_normal((8, 5)), "wt": RNG.standard_normal((5, 8)), "w6": RNG.standard_normal((6, 5)),
    "b": RNG.standard_normal(5), "row": RNG.standard_normal((1, 5)), "all": RNG.standard_normal((6, 5)),
    "one": RNG.standard_normal(1), "eight": RNG.standard_normal((8, 5)), "axis": np.array([1], np.int64),
    "none": np.zeros(0, np.int64), "up": RNG.standard_normal((6, 2, 3, 3)), "up1": RNG.standard_normal((6, 4, 3, 3)),
    "cube": RNG.standard_normal((4, 6, 3, 2, 2)), "cube_up": RNG.standard_normal((6, 4, 3, 2, 2)),
    "cube_half": RNG.standard_normal((4, 3, 3, 2, 2)), "constant": RNG.standard_normal(7),
    "six": RNG.standard_normal(6), "four": RNG.standard_normal(4),
}  # fmt: skip


@pytest.mark.parametrize("text, shapes, result", [
    ("y = Gemm(x, w, b)", X, "Gemm"),
    ("y = Gemm <transB=1> (x, wt)", X, "Gemm"),
    ("y = Gemm <alpha=0.5> (x, w)", X, "MatMul"),
    ("y = Gemm <alpha=0.5, beta=2.0, transB=1> (x, wt, b)", X, "MatMul Add"),
    ("y = Gemm(x, z)", {**X, "z": [8, 5]}, "MatMul"),
    ("y = Gemm(x, w, row)", X, "MatMul Add"),
    ("y = Gemm(x, w, all)", X, "MatMul Add"),
    ("y = Gemm(x, w, one)", X, "MatMul Add"),
    ("y = Gemm <transA=1> (x, w6, eight)", X, "Transpose MatMul Add"),
    ("y = ReduceL1 <axes=[1], keepdims=0> (x)", X, "Abs ReduceSum"),
    ("y = ReduceL2 <axes=[1]> (x)", X, "Mul ReduceSum Sqrt"),
    ("y = ReduceSumSquare(x)", X, "Mul ReduceSum"),
    ("y = ReduceSum <noop_with_empty_axes=1> (x, none)", X, "Identity"),
    ("y = ReduceSum <noop_with_empty_axes=1> (x, axis)", X, "ReduceSum"),
    ("y = ReduceSum(x, none)", X, "ReduceSum"),
    ("y = ConvTranspose <group=3, strides=[2, 2]> (x, up, six)", IMAGE, "ConvTranspose"),
    ("y = ConvTranspose <strides=[2, 1], pads=[1, 0, 1, 1]> (x, up1, four)", IMAGE, "ConvTranspose"),
    ("y = Conv <pads=[1, 0, 1, 1, 1, 0], strides=[2, 1, 2], dilations=[1, 2, 1]> (x, cube, four)", VOLUME, "Reshape Conv Reshape"),
    ("y = ConvTranspose <strides=[2, 1, 2], pads=[1, 0, 1, 0, 1, 1], dilations=[1, 2, 1]> (x, cube_up, four)", VOLUME,
     "Reshape ConvTranspose Reshape"),
    ("y = ConvTranspose <strides=[3, 2, 1], output_padding=[2, 1, 0], group=2> (x, cube_up)", VOLUME,
     "Reshape ConvTranspose Reshape"),
    ("y = MatMul(v, v)", {"v": [7]}, "Reshape Reshape MatMul Reshape"),
    ("y = MatMul(v, constant)", {"v": [7]}, "Reshape MatMul Reshape"),
])  # fmt: skip
def test_elementary(text: str, shapes: dict[str, Any], result: str) -> None:
    """``canonical`` asserts equal numbers."""
    model = canonical(text, shapes, CONSTANTS)
    assert operators(model) == result.split()
    assert all(a.i == 1 for n in model.graph.node for a in n.attribute if a.name == "group")


def test_groups_of_a_volume() -> None:
    assert operators(canonical("y = Conv <group=2> (x, cube_half, four)", VOLUME, CONSTANTS)) == [
        "Reshape",
        "Conv",
        "Reshape",
    ]
