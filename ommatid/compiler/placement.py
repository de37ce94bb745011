"""Placement: buffers of known lifetimes and sizes get addresses, so that those alive together do not overlap.

A buffer is a box: its lifetime is fixed along time, its address is sought. In order of time each goes to the lowest
address that is free; a search then looks for a lower placement, from the bound up. With few steps it is a fast
heuristic, with many an exact planner: it ends when a placement is proved to be the lowest. It counts steps, not
seconds, so that it gives the same on every machine.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ommatid.compiler.placement_search import FOUND, NONE, search
from ommatid.compiler.placement_sections import Box, sections

Array = np.ndarray[Any, Any]
#: Steps of the search at the bound: milliseconds, and seconds.
FAST, EXACT = 10_000, 1_000_000


@dataclass(frozen=True)
class Placement:
    """``offsets`` of the boxes in their order (int64), the highest end, and the height below which there is none."""

    offsets: Array
    peak: int
    bound: int


def place(boxes: Sequence[Box], steps: int = 0) -> Placement:
    """Place boxes as low as a search of so many steps at the bound finds, and of a tenth at each height above it."""
    offsets, parts = _in_order(boxes), sections(boxes)
    peak, low = int((offsets + parts.size).max(initial=0)), int(parts.total.max(initial=0))
    height = bound = low
    while steps and low < peak:
        result, lower = search(parts, height, steps if height == bound else steps // 10)
        if result == FOUND:
            offsets, peak = lower, int((lower + parts.size).max())
        else:
            low = height + 1
            bound = low if result == NONE else bound
        height = (low + peak) // 2
    return Placement(offsets, peak, bound)


def _in_order(boxes: Sequence[Box]) -> Array:
    """Each box at the lowest address that is free at its first moment."""
    offsets = np.zeros(len(boxes), np.int64)
    alive: list[tuple[int, int, int]] = []  # address, end, last moment
    for i in sorted(range(len(boxes)), key=lambda i: boxes[i].first):
        alive = [each for each in alive if each[2] >= boxes[i].first]
        at = 0
        for begin, end, _ in alive:
            if begin - at >= boxes[i].size:
                break
            at = end
        offsets[i] = at
        bisect.insort(alive, (at, at + boxes[i].size, boxes[i].last))
    return offsets
