"""Tokens between queues: given, under way to another core, taken. Those of a core's queues are lanes of one number."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import inlined, kernel
from ommatid.simulator.bits import lowest, members, without
from ommatid.simulator.state import CROSSING, LANES, UNDER_WAY, core_of, several

CROSS_CORE_CYCLES = 8
FULL = 16  # tokens of a queue that another has no room for


@inlined
def give(s: Any, q: int, signal: int, now: float) -> int:
    """Give a token of a queue to each in ``signal``; if some have no room for it, these, and nobody has got one."""
    core, shift, short = core_of(s, q), q % LANES * 8, 0
    others = signal & ~(255 << core * LANES) if several(s) else 0
    own = signal ^ others
    while own:
        to = lowest(own)
        own &= own - 1
        s.held[core, to] += 1 << shift
        short |= (s.held[core, to] & FULL << shift != 0) << to
    if several(s) and others:
        short |= send_off(s, q, others, now)
    if short:
        take_back(s, q, signal)
    return short


@kernel
def send_off(s: Any, q: int, others: int, now: float) -> int:
    """Tokens of a queue go on their way to queues of other cores; those that have no room."""
    core, shift, left, short = core_of(s, q), q % LANES * 8, others, 0
    while left:
        to = lowest(left)
        left &= left - 1
        s.crossing[core, to] += 1 << shift
        short |= (s.held[core, to] + s.crossing[core, to] & FULL << shift != 0) << to
    at = (s.way_first + s.way_count) % UNDER_WAY
    s.way_time[at], s.way_from[at], s.way_to[at] = now + CROSS_CORE_CYCLES, q, others
    s.way_count += 1
    s.when[CROSSING] = s.way_time[s.way_first]
    return short


@kernel
def take_back(s: Any, q: int, signal: int) -> None:
    """Take the tokens back that a queue has just given."""
    core, shift = core_of(s, q), q % LANES * 8
    others = signal & ~(255 << core * LANES)
    own = signal ^ others
    if several(s) and others:
        s.way_count -= 1
        s.when[CROSSING] = s.way_time[s.way_first] if s.way_count > 0 else np.inf
    while others:
        s.crossing[core, lowest(others)] -= 1 << shift
        others &= others - 1
    while own:
        s.held[core, lowest(own)] -= 1 << shift
        own &= own - 1


@kernel
def arrive(s: Any, now: float) -> int:
    """Tokens of other cores arrive; the queues that may go on by that."""
    ask = 0
    while s.way_count > 0 and s.way_time[s.way_first] <= now:
        q, to = s.way_from[s.way_first], s.way_to[s.way_first]
        ask |= s.wanted[q] & to
        s.wanted[q] &= ~to
        while to:
            token, c = 1 << q % LANES * 8, lowest(to)
            to &= to - 1
            s.crossing[core_of(s, q), c] -= token
            s.held[core_of(s, q), c] += token
        s.way_first = (s.way_first + 1) % UNDER_WAY
        s.way_count -= 1
    s.when[CROSSING] = s.way_time[s.way_first] if s.way_count > 0 else np.inf
    return ask


@inlined
def absent(s: Any, q: int) -> tuple[int, int]:
    """What the next instruction of a queue lacks: a one in the lanes of its own core's engines, a set of others' queues."""
    missing, others = 0, s.others[q] if several(s) else 0
    while others:
        p = lowest(others)
        others &= others - 1
        missing |= (s.held[core_of(s, p), q] >> p % LANES * 8 & 15 == 0) << p
    return without(s.takes[q], s.held[core_of(s, q), q]), missing


@inlined
def take(s: Any, q: int) -> int:
    """Take what the next instruction of a queue waits for; the queues that waited for room and may have it by that."""
    s.held[core_of(s, q), q] -= s.takes[q]
    others = s.others[q] if several(s) else 0
    while others:
        p = lowest(others)
        others &= others - 1
        s.held[core_of(s, p), q] -= 1 << p % LANES * 8
    if s.stuck == 0:
        return 0
    return s.stuck & (s.others[q] | members(s.takes[q]) << core_of(s, q) * LANES)
