"""Functions of a value and a constant for each element: the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.compiler.canonical import canonical, operators

RNG = np.random.default_rng(0)
X: dict[str, Any] = {"x": [2, 3, 4, 5]}
CONSTANTS: dict[str, Any] = {
    "exponents": np.array([2.0, 3.0, 2.0, 1.0, 4.0]), "whole": np.array([[2], [3], [2], [5]], np.int64),
    "same": np.full((4, 5), 2.0), "many": np.arange(20).reshape(4, 5) / 2 + 1,
    "channel": RNG.standard_normal((3, 1, 1)), "element": RNG.standard_normal((3, 4, 5)),
    "some": RNG.standard_normal((3, 1, 5)), "rows": RNG.standard_normal((4, 1)),
}  # fmt: skip


@pytest.mark.parametrize("text, result", [
    ("y = Pow(x, exponents)", "Pow Pow Pow Where Where Where"),
    ("y = Pow(x, whole)", "Pow Pow Pow Where Where"),
    ("y = Pow(x, same)", "Pow"),
    ("a = Abs(x)\ny = Pow(a, many)", "Abs Pow"),
    ("y = PRelu(x, channel)", "PRelu"),
    ("y = PRelu(x, element)", "Reshape PRelu Reshape"),
    ("y = PRelu(x, some)", "Reshape PRelu Reshape"),
    ("y = PRelu(x, rows)", "PRelu"),
])  # fmt: skip
def test_pairs(text: str, result: str) -> None:
    """``canonical`` asserts equal numbers."""
    assert sorted(operators(canonical(text, X, CONSTANTS))) == sorted(result.split())
