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
    "w": RNG.standard_normal((5, 5, 1, 1)), "five": RNG.random(5),
    "three": RNG.standard_normal(3),
}  # fmt: skip
BATCH = "ReduceMean Sub Mul ReduceMean Add Sqrt Reciprocal Mul BatchNormalization"
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
    ("y, m, v = BatchNormalization <training_mode=1, momentum=0.7> (x, five, five, five, five)", "y m v",
     f"{BATCH} Reshape Mul Add Reshape Mul Add"),
    ("c = Conv(x, w)\ny, m, v = BatchNormalization <training_mode=1> (c, five, five, five, five)", "y m v",
     f"Conv {BATCH} Reshape Mul Add Reshape Mul Add"),
])  # fmt: skip
@pytest.mark.parametrize("opset", [17, 18])
def test_norms(text: str, outputs: str, result: str, opset: int) -> None:
    """``canonical`` asserts equal numbers."""
    model = canonical(text, X, CONSTANTS, opset, outputs)
    assert sorted(operators(model)) == sorted(result.split())
