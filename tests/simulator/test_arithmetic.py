"""The fused multiply-add rounds once, judged by exact fractions."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numba
import numpy as np

from ommatid.simulator.kernels.vectors import LANES, fma, load_floats, store

Array = np.ndarray[Any, Any]


@numba.njit  # type: ignore[untyped-decorator]
def fma_all(a: Array, b: Array, c: Array, out: Array) -> None:
    for i in range(0, len(out), LANES):
        left = len(out) - i
        x, y, z = (load_floats(a, 4 * i, left), load_floats(b, 4 * i, left), load_floats(c, 4 * i, left))
        store(out, i, left, fma(x, y, z))


def test_fma_rounds_once() -> None:
    rng = np.random.default_rng(0)
    a, b, c = (rng.standard_normal(1000).astype(np.float32) for _ in range(3))
    c[:500] = -(a * b)[:500]  # nearly cancels: all that is left is what rounding the product would lose
    # a tie of float32 and a hair more, which float64 cannot hold: rounding the sum twice goes down, once up
    a[500], b[500], c[500] = 1 + 2.0**-23, 2.0**-24 * (1 - 2.0**-23), 1 + 2.0**-23
    a[501], b[501], c[501] = 2.0**-30, 2.0**-30, 1 + 2.0**-23
    got = np.empty_like(a)
    fma_all(a.view(np.uint8), b.view(np.uint8), c.view(np.uint8), got)
    for x, y, z, result in zip(a, b, c, got, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        error = abs(Fraction(float(result)) - exact)
        for other in (np.nextafter(result, np.float32(-np.inf)), np.nextafter(result, np.float32(np.inf))):
            assert error <= abs(Fraction(float(other)) - exact)
    assert (got != (a * b) + c).any()
