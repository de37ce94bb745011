"""Boxes, for placement: buffers with lifetimes and sizes, and time cut into sections in which the same are alive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Box:
    """A buffer of ``size`` bytes, alive at times ``first`` to ``last``, both included."""

    name: str
    first: int
    last: int
    size: int


class Sections(NamedTuple):
    """Time as sections, in each of which a set of boxes is alive that is not part of another section's (int64 arrays).

    Box i is alive in sections ``begin[i]`` to before ``end[i]``; ``total`` is the sum of sizes of each section. Boxes
    that begin in section s are ``starts[starts_at[s] : starts_at[s + 1]]``; those that end before it are in ``stops``,
    those alive in it in ``covers``, likewise.
    """

    begin: Array
    end: Array
    size: Array
    total: Array
    starts: Array
    starts_at: Array
    stops: Array
    stops_at: Array
    covers: Array
    covers_at: Array


def sections(boxes: Sequence[Box]) -> Sections:
    """The sections of some boxes: one for each birth that a death follows before the next birth."""
    first = np.array([box.first for box in boxes], np.int64)
    last = np.array([box.last for box in boxes], np.int64)
    size = np.array([box.size for box in boxes], np.int64)
    births, deaths = np.unique(first), np.unique(last)
    following = np.append(births[1:], np.iinfo(np.int64).max)
    times = births[deaths[np.searchsorted(deaths, births)] < following[: len(births)]]
    begin, end = np.searchsorted(times, first), np.searchsorted(times, last, side="right")
    count = len(times)
    alive = [np.flatnonzero((begin <= s) & (s < end)) for s in range(count)]
    total = np.array([size[each].sum() for each in alive], np.int64)
    covers = np.concatenate([np.zeros(0, np.int64), *alive])
    covers_at = np.cumsum([0, *map(len, alive)])
    lists = [_sorted_by(begin, count), _sorted_by(end, count)]
    return Sections(begin, end, size, total, *lists[0], *lists[1], covers, covers_at)


def _sorted_by(section: Array, count: int) -> tuple[Array, Array]:
    """Boxes by a section of each, and where those of every section up to ``count`` begin."""
    order = np.argsort(section, kind="stable")
    return order, np.searchsorted(section[order], np.arange(count + 2))
