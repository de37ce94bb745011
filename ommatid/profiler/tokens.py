"""Which instruction's token another takes: the k-th wait matches the k-th signal between two queues."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ommatid.isa.instructions import queues

Array = np.ndarray[Any, Any]


def by_queue(stream: Array) -> dict[int, Array]:
    """The instructions of each queue, in order."""
    queue = queues(stream)
    return {q: np.flatnonzero(queue == q) for q in np.unique(queue).tolist()}


def token_pairs(stream: Array) -> Iterator[tuple[Array, Array]]:
    """(instructions that signal, instructions that take these tokens) for every two queues."""
    members = by_queue(stream)
    for q, mine in members.items():
        for p, theirs in members.items():
            takers = mine[stream["wait"][mine] >> p & 1 == 1]
            makers = theirs[stream["signal"][theirs] >> q & 1 == 1][: len(takers)]
            yield makers, takers[: len(makers)]
