"""Ranges of activations: the methods that propose one, and the choice between them by the error they leave.

A method sees the distribution of a tensor's values. The error of a range is the noise that 8 bits of it leave,
relative to the signal, **as the tensor's readers see it**: through the function of one value that reads it (what
a sigmoid flattens costs nothing), and as it is for every other reader. Of several readers the mean counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ommatid.compiler.histogram import Distribution
from ommatid.isa.compiled import entry

Array = np.ndarray[Any, Any]
Range = tuple[float, float]
View = Callable[[Array], Array]
STEPS = 255

#: Of few values a histogram says little: the entropy method clamps no more than this share of them.
MOST_CLAMPED = 0.01
#: Of all values, what the percentile method leaves in the range (percent).
PERCENTILE = 99.99


@dataclass(frozen=True)
class Choice:
    """A tensor's range, the method that proposed it, and the signal over noise that its readers see (dB)."""

    low: float
    high: float
    method: str
    sqnr_db: float


def choose(
    d: Distribution, views: Sequence[View] = (), methods: Iterable[str] = (), percent: float = PERCENTILE
) -> Choice:
    """The range of least error among those of ``methods`` (none: all); the first of equals."""
    error = error_of(d, views)
    table = METHODS | {"percentile": partial(percentile, percent=percent)}
    found = [(name, table[name](d, error)) for name in methods or table]
    name, best = min(found, key=lambda pair: error(*pair[1]))
    return Choice(*best, name, -10 * float(np.log10(max(error(*best), 1e-12))))


def error_of(d: Distribution, views: Sequence[View] = ()) -> Callable[[float, float], float]:
    """Of a range: noise over signal, as readers see it."""
    values, shares = d.values, d.shares
    seen = [(view, view(values)) for view in views or (as_it_is,)]
    signals = [max(float(shares @ s**2), 1e-30) for _, s in seen]

    def noise(view: View, wanted: Array, low: float, high: float) -> float:
        if view is as_it_is:
            return float(_noise(values, shares, *_grid(low, high)))
        return float(shares @ (view(fake_quantized(values, low, high)) - wanted) ** 2)

    def error(low: float, high: float) -> float:
        ratios = [noise(view, s, low, high) / signal for (view, s), signal in zip(seen, signals, strict=True)]
        return sum(ratios) / len(ratios)

    return error


@entry
def _noise(values: Array, shares: Array, scale: float, zero: float) -> float:
    """The mean square of what rounding to the codes of a range takes away."""
    total = 0.0
    for i in range(values.size):
        rounded = 0.0
        if scale > 0:
            rounded = (min(max(np.rint(values[i] / scale) + zero, 0.0), STEPS) - zero) * scale
        total += shares[i] * (rounded - values[i]) ** 2
    return total


def fake_quantized(values: Array, low: float, high: float) -> Array:
    """Values rounded to the 256 codes of a range, as real values of the same type."""
    scale, zero = _grid(low, high)
    if scale <= 0:
        return np.zeros_like(values)
    return (np.clip(np.rint(values / scale) + zero, 0, STEPS) - zero) * scale


def _grid(low: float, high: float) -> tuple[float, float]:
    """The scale and the zero point of a range, made to hold zero; both 0 where nothing else is in it."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / STEPS
    return (scale, float(round(-low / scale))) if scale > 0 else (0.0, 0.0)


def as_it_is(values: Array) -> Array:
    """What a reader sees that tells all values apart."""
    return values


# --- methods -----------------------------------------------------------------------------------------------


def minmax(d: Distribution, error: Any = None) -> Range:
    """From the least to the greatest value."""
    return d.low, d.high


def percentile(d: Distribution, error: Any = None, percent: float = PERCENTILE) -> Range:
    """What leaves the same small share of the values out at each end."""
    values, below = d.values, np.cumsum(d.shares)
    tail = (1 - percent / 100) / 2
    low = values[min(int(np.searchsorted(below, tail, side="right")), values.size - 1)]
    high = values[min(int(np.searchsorted(below, 1 - tail)), values.size - 1)]
    return _inside(low, high, d)


def entropy(d: Distribution, error: Any = None) -> Range:
    """Least Kullback-Leibler divergence of the rounded from the clamped distribution (Migacz, TensorRT, 2017)."""
    below = np.concatenate([[0], np.cumsum(d.shares)])
    ranges = np.array(_clamped(d, 64))
    begins = np.searchsorted(d.values, ranges[:, 0])
    ends = np.searchsorted(d.values, ranges[:, 1], side="right")
    kept = np.flatnonzero(below[begins] + below[-1] - below[ends] <= MOST_CLAMPED)
    best = min(kept, key=lambda i: _divergence(d.values, d.shares, begins[i], ends[i], *ranges[i]))
    return float(ranges[best, 0]), float(ranges[best, 1])


@entry
def _divergence(values: Array, shares: Array, begin: int, end: int, low: float, high: float) -> float:
    """Of the clamped values' distribution from that where each code's share is spread evenly over its bins.

    Values before ``begin`` and from ``end`` on are clamped to the first and the last between.
    """
    if begin == end or high <= low:
        return np.inf
    code = np.empty(end - begin, np.int64)
    total, bins = np.zeros(STEPS + 1), np.zeros(STEPS + 1)
    for i in range(begin, end):
        c = np.int64(np.rint((values[i] - low) * (STEPS / (high - low))))
        code[i - begin] = c
        total[c] += shares[i]
        bins[c] += 1
    inside = shares[begin:end].sum()
    divergence = 0.0
    for i in range(begin, end):
        clamped = shares[i]
        if i == begin:
            clamped += shares[:begin].sum()
        if i == end - 1:
            clamped += shares[end:].sum()
        c = code[i - begin]
        divergence += clamped * np.log(clamped * inside * bins[c] / total[c])
    return divergence


def mse(d: Distribution, error: Any = None) -> Range:
    """Least mean square error at the readers: one limit for both ends, then each end in steps that get finer."""
    error = error or error_of(d)
    low, high = min(_clamped(d, 48), key=lambda r: error(*r))
    best = error(low, high)
    for step in (0.1, 0.03, 0.01):
        for end in (0, 1):
            while True:
                smaller = (low * (1 - step), high) if end == 0 else (low, high * (1 - step))
                if (found := error(*smaller)) >= best:
                    break
                best, (low, high) = found, smaller
    return _inside(low, high, d)


def _clamped(d: Distribution, count: int) -> list[Range]:
    """The whole range, and what is left of it between -t and t for ever smaller t."""
    limits = max(abs(d.low), abs(d.high)) * np.geomspace(1, 0.02, count)
    return [_inside(max(d.low, -t), min(d.high, t), d) for t in limits.tolist()]


def _inside(low: float, high: float, d: Distribution) -> Range:
    """The range, not wider than that of the values, with zero where they have it on both sides."""
    low, high = float(min(max(low, d.low), d.high)), float(min(max(high, d.low), d.high))
    return (min(low, 0.0), max(high, 0.0)) if d.low <= 0 <= d.high else (low, high)


Method = Callable[[Distribution, Any], Range]

#: By name; the first wins where errors are equal.
METHODS: dict[str, Method] = {"minmax": minmax, "percentile": percentile, "entropy": entropy, "mse": mse}
