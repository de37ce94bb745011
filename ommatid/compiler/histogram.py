"""What is known of a tensor's values after a stream of samples, in memory that does not grow with them.

A histogram's bins have a power of two as their width and begin at zero, so that a wider one is made by adding
neighbours: one pass is enough, and the order of samples does not matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ommatid.isa.compiled import entry

Array = np.ndarray[Any, Any]

#: Of each histogram: at least an eighth of them lie between the least and the greatest value that was counted.
BINS = 8192
#: Values that are counted at a time.
BLOCK = 512
#: Bins that zeros take turns in: a power of two.
ZEROS = 8


@dataclass(frozen=True)
class Distribution:
    """Values in rising order with their shares, which sum to one (float64 both), and the exact limits of all."""

    values: Array
    shares: Array
    low: float
    high: float


@dataclass
class Histogram:
    """How often (int64) and with which sum (float64) values fell into each of BINS bins from ``-reach`` to ``reach``.

    ``low`` and ``high`` are the least and the greatest value, of those that were not counted as well.
    """

    reach: float = 0.0
    counts: Array = field(default_factory=lambda: np.zeros(BINS, np.int64))
    sums: Array = field(default_factory=lambda: np.zeros(BINS))
    low: float = math.inf
    high: float = -math.inf

    def add(self, values: Array) -> Array:
        """Count values between the limits that it holds; their sums along the last axis (float64, by row)."""
        rows = np.require(values, np.float32, ["C", "W"]).reshape(-1, values.shape[-1])
        sums = np.zeros(len(rows))
        if rows.size:
            self._widen(max(-self.low, self.high))
            _count(rows, BINS / 2 / self.reach, self.counts, self.sums, sums)
        return sums

    def hold(self, low: float, high: float) -> None:
        """Know of values from ``low`` to ``high`` (finite)."""
        self.low, self.high = min(self.low, low), max(self.high, high)

    def _widen(self, limit: float) -> None:
        """Let the bins reach ``limit``."""
        needed = math.ldexp(1.0, math.frexp(max(limit, 1e-30))[1])
        while self.reach and self.reach < needed:
            for name in ("counts", "sums"):
                array = getattr(self, name)
                wider = np.zeros_like(array)
                wider[BINS // 4 : 3 * BINS // 4] = array[::2] + array[1::2]
                setattr(self, name, wider)
            self.reach *= 2
        self.reach = self.reach or needed

    def distribution(self, low: float = -math.inf, high: float = math.inf) -> Distribution:
        """The values that were counted, those outside ``low`` and ``high`` at these limits."""
        used = np.flatnonzero(self.counts)
        counts = self.counts[used]
        low, high = (float(np.clip(v, low, high)) for v in (self.low, self.high))
        return Distribution(np.clip(self.sums[used] / counts, low, high), counts / counts.sum(), low, high)


@entry
def _count(rows: Array, bins_a_unit: float, counts: Array, sums: Array, row_sums: Array) -> None:
    """Add each value to its bin and to its row's sum; ``bins_a_unit`` is a power of two, so that no product is rounded,
    unless it is too small for float32.

    Zeros, of which a Relu makes many, take turns in bins of their own: an addition waits for the one before it to the
    same bin.
    """
    size, half, unit = np.int32(counts.size), np.int32(counts.size // 2), np.float32(bins_a_unit)
    bins = np.empty(BLOCK, np.uint32)  # unsigned, so that none counts from the end
    some, totals = np.zeros(size + ZEROS, np.int64), np.zeros(size + ZEROS)
    some[:size], totals[:size] = counts, sums
    for row in range(rows.shape[0]):
        total = 0.0
        for begin in range(0, rows.shape[1], BLOCK):
            block = rows[row, begin : begin + BLOCK]
            for i in range(block.size):  # apart, so that the machine does several at once
                index = min(half + np.int32(np.floor(block[i] * unit)), size - np.int32(1))
                zero = size + (np.int32(i) & np.int32(ZEROS - 1))
                bins[i] = np.uint32(zero if block[i] == np.float32(0) else index)
            for i in range(np.uint64(block.size)):
                value, index = block[i], bins[i]
                some[index] += 1
                totals[index] += value
                total += value
        row_sums[row] = total
    counts[:], sums[:] = some[:size], totals[:size]
    counts[half] += some[size:].sum()
