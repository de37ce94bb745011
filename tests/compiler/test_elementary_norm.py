"""Normalisations made of plainer operators: the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.compiler.canonical import canonical, operators

RNG = np.random.default_rng(0)
X: dict[str, Any] = {"x": [2, 5, 4, 3]}
CONSTANTS: dict[str, Any] = {
    "all": RNG.standard_normal((5, 4, 3)), "shift": RNG.standard_normal((5, 4, 3)), "row": RNG.standard_normal((4, 3)),
    "three": RNG.standard_normal(3),
}  # fmt: skip
STATISTICS = "ReduceMean Sub Mul ReduceMean Add Sqrt Reciprocal"


@pytest.mark.parametrize("text, outputs, result", [
    ("y = LayerNormalization <axis=1> (x, all, shift)", "y", "Reshape LayerNormalization Reshape"),
    ("y = LayerNormalization <axis=-2, epsilon=0.1> (x, row)", "y", "Reshape LayerNormalization Reshape"),
    ("y = LayerNormalization(x, three)", "y", "LayerNormalization"),
    ("n = LayerNormalization <axis=2> (x, row)\ny = Mul(n, row)", "y", "Reshape LayerNormalization Reshape"),
    ("y, m, i = LayerNormalization(x, three)", "y m i", f"LayerNormalization {STATISTICS}"),
    ("y, m = LayerNormalization(x, three)", "y m", "LayerNormalization ReduceMean"),
    ("y, m, i = LayerNormalization <axis=1> (x, all)", "y i", f"Reshape LayerNormalization Reshape {STATISTICS}"),
    ("y = LRN <size=3, beta=0.5, alpha=0.3, bias=2.0> (x)", "y", "Mul Conv Pow Mul"),
    ("y = LRN <size=5, beta=0.9, alpha=0.3> (x)", "y", "Mul Conv Pow Mul"),
    ("y = LRN <size=3, alpha=0.3> (x)", "y", "LRN"),
])  # fmt: skip
@pytest.mark.parametrize("opset", [17, 18])
def test_norms(text: str, outputs: str, result: str, opset: int) -> None:
    """``canonical`` asserts equal numbers."""
    model = canonical(text, X, CONSTANTS, opset, outputs)
    assert sorted(operators(model)) == sorted(result.split())
