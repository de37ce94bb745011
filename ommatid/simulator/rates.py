"""Rates between two events: the DRAM's bandwidth among its clients, a core's banks among its engines."""

from __future__ import annotations

from typing import Any

from ommatid.isa.compiled import inlined
from ommatid.simulator.bits import lowest
from ommatid.simulator.crowding import AHEAD_BEATS

#: A core's engines by their priority at a bank: mx, vx, load, store.
PRIORITY = (2, 3, 0, 1)
#: A request that has waited so many cycles goes first, so that as many beats as are ahead pass in them at least.
STARVATION_CYCLES = 256


@inlined
def dram_rates(s: Any, now: float) -> None:
    """Solve the shares of the clients that move bytes anew, and with them when each is through.

    Max-min fair: none above its cap; what one leaves goes to the others.
    """
    left, unsettled, count = s.bandwidth, s.moving, 0
    moving = s.moving
    while moving:
        c = lowest(moving)
        moving &= moving - 1
        s.left[c] = max(0.0, s.left[c] - s.rate[c] * (now - s.since[c]))
        s.since[c] = now
        count += 1
    while unsettled:
        equal, capped, rest = left / count, 0, unsettled
        while rest:
            c = lowest(rest)
            rest &= rest - 1
            if s.cap[c] <= equal:
                settle_rate(s, c, s.cap[c], now)
                left -= s.cap[c]
                count -= 1
                capped |= 1 << c
        if not capped:
            break
        unsettled &= ~capped
    while unsettled:
        c = lowest(unsettled)
        unsettled &= unsettled - 1
        settle_rate(s, c, equal, now)


@inlined
def settle_rate(s: Any, c: int, rate: float, now: float) -> None:
    """A client goes on at this rate."""
    s.rate[c] = rate
    s.when[c] = now + s.left[c] / rate


@inlined
def bank_speed(asked: float, left: float) -> float:
    """The part of its speed at which an engine works that asks for ``asked`` words a cycle where ``left`` are."""
    return max(min(1.0, left / asked), AHEAD_BEATS / STARVATION_CYCLES) if asked > 0 else 1.0


@inlined
def slow_down(s: Any, q: int, speed: float, now: float) -> None:
    """Let the engine of a queue that computes go on at another speed."""
    s.left[q] = max(0.0, s.left[q] - s.rate[q] * (now - s.since[q]))
    s.since[q], s.rate[q] = now, speed
    s.when[q] = now + s.left[q] / speed
