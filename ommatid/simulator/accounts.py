"""Where the engines' cycles go: the accounts of ``docs/isa.md``, kept while the event loop runs."""

from __future__ import annotations

from typing import Any

from ommatid.isa.compiled import inlined, kernel
from ommatid.simulator.bits import lowest
from ommatid.simulator.state import (
    BANDWIDTH,
    BANK,
    FETCH,
    IDLE,
    LANES,
    LATENCY,
    TOKEN,
    core_of,
    several,
)


@inlined
def charge(w: Any, s: Any, q: int, now: float) -> None:
    """Instruction ``w`` leaves its engine, which is idle until told otherwise: the cycles beyond those of its own."""
    longer = now - w.start - (w.pace if w.dma else w.cost)
    s.account[q, BANDWIDTH if w.dma else BANK] += longer if longer > 1e-6 else 0.0
    s.doing[q], s.doing_since[q] = IDLE, now


@inlined
def spend(s: Any, q: int, column: int, now: float) -> None:
    """From now on a free engine's cycles belong to another column."""
    spent(s, q, now)
    s.doing[q], s.doing_since[q] = column, now


@inlined
def spent(s: Any, q: int, now: float) -> None:
    """The cycles until now belong to the column that was told."""
    s.account[q, s.doing[q]] += now - s.doing_since[q]


@inlined
def obstacle(s: Any, q: int, missing: int) -> int:
    """The column of a queue that waits: for its instruction, for room, or for tokens of the queues ``missing``."""
    if s.head[q] >= s.fetched:
        return FETCH
    if s.blocked >> q & 1:
        return TOKEN + lowest(s.short[q]) % LANES if s.stuck >> q & 1 else LATENCY
    left = missing
    while left:
        s.wanted[lowest(left)] |= 1 << q
        left &= left - 1
    engines = missing
    if several(s):
        engines |= engines >> 2 * LANES
        engines |= engines >> LANES
        missing &= ~coming(s, q, missing & ~(255 << core_of(s, q) * LANES))
    s.missing[q], s.lacks[q] = missing, TOKEN + lowest(engines)
    return lack(s, q)


@kernel
def coming(s: Any, q: int, others: int) -> int:
    """Those of other cores' queues of which a token is under way to a queue."""
    found = 0
    while others:
        p = lowest(others)
        others &= others - 1
        found |= (s.crossing[core_of(s, p), q] >> p % LANES * 8 & 15 > 0) << p
    return found


@inlined
def lack(s: Any, q: int) -> int:
    """The column of a queue that lacks tokens: of a load or store that has bytes to move, or under way, or of an engine."""
    cause = LATENCY if s.missing[q] & s.landing else s.lacks[q]
    return BANDWIDTH if s.missing[q] & s.moving else cause


@inlined
def explain(s: Any, turned: int, now: float) -> None:
    """Loads or stores began or ceased to have bytes: the queues that lack their tokens wait for another cause."""
    lacking = 0
    while turned:
        lacking |= s.wanted[lowest(turned)]
        turned &= turned - 1
    while lacking:
        q = lowest(lacking)
        lacking &= lacking - 1
        spend(s, q, lack(s, q), now)
