"""Range methods: what every one of them keeps to, and each on a distribution with a known best answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ommatid.compiler.histogram import Distribution, Histogram
from ommatid.compiler.ranges import METHODS, PERCENTILE, choose, error_of, fake_quantized

Array = np.ndarray[Any, Any]
VALUES = arrays(
    np.float32, st.integers(1, 40), elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
)


def distribution(values: Array) -> Distribution:
    histogram = Histogram()
    histogram.hold(float(values.min()), float(values.max()))
    histogram.add(values)
    return histogram.distribution()


few = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@few
@given(VALUES, st.sampled_from(sorted(METHODS)))
def test_a_range_lies_inside_the_values_and_holds_zero(values: Array, method: str) -> None:
    d = distribution(values)
    low, high = METHODS[method](d, error_of(d))
    assert min(d.low, 0) <= low <= high <= max(d.high, 0)
    assert np.isfinite([low, high]).all()
    if values.min() <= 0 <= values.max():
        assert low <= 0 <= high


@few
@given(VALUES)
def test_zero_is_a_code_and_the_scale_is_positive(values: Array) -> None:
    d = distribution(values)
    choice = choose(d)
    assert fake_quantized(np.zeros(1), choice.low, choice.high) == 0
    reach = max(abs(choice.low), abs(choice.high))
    if reach > 0:
        rounded = fake_quantized(d.values, choice.low, choice.high)
        step = (max(choice.high, 0) - min(choice.low, 0)) / 255
        assert 0 < step < np.inf and len(np.unique(rounded)) <= 256
        codes = rounded / step
        np.testing.assert_allclose(codes, np.rint(codes), atol=1e-6)


@few
@given(VALUES)
def test_the_choice_has_the_least_error(values: Array) -> None:
    d = distribution(values)
    error = error_of(d)
    choice = choose(d)
    assert error(choice.low, choice.high) <= min(error(*METHODS[m](d, error)) for m in METHODS)
    assert choice.method in METHODS and choose(d) == choice


UNIFORM = np.linspace(-3, 5, 200_000, dtype=np.float32)
NORMAL = np.random.default_rng(0).standard_normal(400_000).astype(np.float32)
OUTLIER = np.append(NORMAL, np.float32([400.0]))


def test_minmax_is_best_of_uniform_values() -> None:
    """No part of a uniform distribution can be left out for less than it costs."""
    d = distribution(UNIFORM)
    low, high = METHODS["minmax"](d, None)
    assert (low, high) == (-3, 5)
    assert METHODS["mse"](d, error_of(d)) == pytest.approx((-3, 5), rel=0.02)
    assert -10 * np.log10(error_of(d)(low, high)) == pytest.approx(
        10 * np.log10((UNIFORM.astype(float) ** 2).mean() / ((8 / 255) ** 2 / 12)), abs=0.1
    )


def test_percentile_is_the_quantile() -> None:
    low, high = METHODS["percentile"](distribution(NORMAL), None)
    tail = (1 - PERCENTILE / 100) / 2
    assert (low, high) == pytest.approx(tuple(np.quantile(NORMAL, [tail, 1 - tail])), abs=0.02)


def test_mse_of_a_normal_distribution() -> None:
    """The best symmetric 8-bit uniform quantiser of a normal variable clips at about four deviations."""
    d = distribution(NORMAL)
    low, high = METHODS["mse"](d, error_of(d))
    error = error_of(d)
    best = min(np.linspace(2, 6, 81), key=lambda a: error(-a, a))
    assert 3.5 < best < 4.5
    assert error(low, high) <= 1.02 * error(-best, best)


def test_entropy_of_a_normal_distribution_with_a_far_outlier() -> None:
    """One value in 400,000 must not take the codes of the others."""
    _, high = METHODS["entropy"](distribution(OUTLIER), None)
    assert high < 0.2 * OUTLIER.max()
    whole = METHODS["entropy"](distribution(UNIFORM), None)
    assert whole == pytest.approx((-3, 5), rel=0.1)


def test_entropy_clamps_few_of_few_values() -> None:
    values = NORMAL[:100]
    low, high = METHODS["entropy"](distribution(values), None)
    assert ((values < low) | (values > high)).mean() <= 0.01


def test_an_outlier_is_left_out_where_that_lowers_the_error() -> None:
    """Values of one size, and one in two million five times as large: keeping it costs more than losing it."""
    values = np.append(np.tile(np.float32([-1, -0.3, 0.4, 1]), 500_000), np.float32(5))
    d = distribution(values + NORMAL[:1] * 0)
    jitter = distribution(
        np.append(np.random.default_rng(1).uniform(-1, 1, 2_000_000).astype(np.float32), np.float32(5))
    )
    choice = choose(jitter)
    assert choice.method != "minmax" and choice.high < 1.2
    assert choose(d).sqnr_db >= -10 * np.log10(error_of(d)(d.low, d.high)) - 1e-9


def test_readers_decide_what_counts() -> None:
    """Behind a sigmoid the large values look alike: the range shrinks, and the error is the sigmoid's."""
    values = 8 * NORMAL
    d = distribution(values)

    def sigmoid(x: Array) -> Array:
        return np.asarray(1 / (1 + np.exp(-x)))

    plain, seen = choose(d), choose(d, [sigmoid])
    assert seen.high < 0.5 * plain.high
    noise = ((sigmoid(fake_quantized(values, seen.low, seen.high)) - sigmoid(values)) ** 2).mean()
    signal = (sigmoid(values) ** 2).mean()
    assert seen.sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=0.3)
    assert error_of(d, [sigmoid])(plain.low, plain.high) > 2 * noise / signal
