"""The histogram: nothing is lost, the order does not matter, and memory does not grow."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ommatid.compiler.histogram import BINS, Histogram
from ommatid.compiler.observe import Observed

Array = np.ndarray[Any, Any]
VALUES = arrays(
    np.float32, st.integers(1, 40), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
)


def of(*parts: Array) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.hold(float(part.min()), float(part.max()))
        histogram.add(part)
    return histogram


few = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@few
@given(VALUES)
def test_every_value_lies_in_its_bin(values: Array) -> None:
    h = of(values)
    assert h.counts.sum() == values.size and h.low == values.min() and h.high == values.max()
    assert np.frexp(h.reach)[0] == 0.5  # a power of two
    width = h.reach / (BINS / 2)
    index = np.minimum(np.floor(values.astype(np.float64) / width), BINS // 2 - 1).astype(int) + BINS // 2
    assert (np.bincount(index, minlength=BINS) == h.counts).all()
    np.testing.assert_allclose(h.sums.sum(), values.astype(np.float64).sum(), atol=1e-3, rtol=1e-6)


@few
@given(st.lists(VALUES, min_size=2, max_size=4), st.randoms())
def test_the_order_does_not_matter(parts: list[Array], random: Any) -> None:
    once = of(*parts)
    random.shuffle(parts)
    again = of(*parts)
    assert (once.counts == again.counts).all() and once.reach == again.reach
    whole = of(np.concatenate(parts))
    assert (once.counts == whole.counts).all() and (once.low, once.high) == (whole.low, whole.high)


@few
@given(VALUES, st.floats(-10, 0), st.floats(0, 10))
def test_a_distribution_is_of_the_clamped_values(values: Array, low: float, high: float) -> None:
    d = of(values).distribution(low, high)
    assert d.shares.sum() == np.float64(1).round() or abs(d.shares.sum() - 1) < 1e-12
    assert d.values.min() >= d.low >= low and d.values.max() <= d.high <= high
    assert (np.diff(d.values) >= 0).all()


def test_memory_does_not_grow_with_the_stream() -> None:
    """A thousand samples take what ten take; each sample is half a mebibyte."""

    def peak(count: int) -> int:
        generator = np.random.default_rng(0)
        seen = Observed()
        tracemalloc.start()
        for _ in range(count):
            seen.add(generator.standard_normal((1, 8, 128, 128), np.float32))
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert seen.count == count * 128 * 128
        return result

    peak(1)  # what is imported or made once
    assert peak(300) < 1.1 * peak(10)


def test_what_float32_rounds_up_to_the_reach_lies_in_the_last_bin() -> None:
    values = np.full((1, 1), 1 - 1e-12)
    h = Histogram()
    h.hold(0.0, values.item())
    h.add(values)
    assert h.reach == 1 and h.counts[-1] == h.counts.sum() == 1
