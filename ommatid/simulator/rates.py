"""Rates between two events: the DRAM's bandwidth among its clients, a core's banks among its engines."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import inlined, kernel
from ommatid.simulator.bits import lowest
from ommatid.simulator.crowding import AHEAD_BEATS, STARVATION_CYCLES

#: A core's engines by their priority at a bank: mx, vx, load, store.
PRIORITY = (2, 3, 0, 1)


@inlined
def dram_rates(s: Any, now: float) -> None:
    """Solve the shares of the clients that move bytes anew, and with them when each is through.

    Max-min fair: none above its cap; what one leaves goes to the others. What nobody used is credit, for those that
    begin now.
    """
    s.credit = min(s.most_credit, s.credit + s.spare * (now - s.solved))
    s.solved = now
    moving, begun, count, owed = s.moving, 0, 0, 0.0
    while moving:
        c = lowest(moving)
        moving &= moving - 1
        s.left[c] -= s.rate[c] * (now - s.since[c])
        s.since[c] = now
        begun |= (s.rate[c] == 0) << c
        owed += s.left[c] if s.rate[c] > 0 else 0.0
        count += 1
    all_used = s.spare <= 0
    paying = (s.moving if all_used else begun) if s.credit > 0 else 0
    while paying:
        c = lowest(paying)
        paying &= paying - 1
        paid = min(s.credit, s.claim[c])
        s.credit -= paid
        s.left[c] -= paid * min(1.0, s.cap[c] / s.bandwidth)
    if all_used and begun and begun != s.moving:
        take_turns(s, begun, count, owed)
    left, unsettled = s.bandwidth, s.moving
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
            left = 0.0
            break
        unsettled &= ~capped
    s.spare = left
    while unsettled:
        c = lowest(unsettled)
        unsettled &= unsettled - 1
        settle_rate(s, c, equal, now)


@kernel
def take_turns(s: Any, begun: int, count: int, owed: float) -> None:
    """Clients that begin while others use all of the DRAM have their turns before a round of ``count`` is over.

    A first burst comes after (count - 2) / 2 of theirs on average, and what is credited to them of the burst under
    way (they are owed so many bytes, of which whole bursts are not granted) is its; so is it ahead of equal rates by
    what follows, and they are behind.
    """
    burst = s.most_credit - s.bandwidth
    others, each = s.moving & ~begun, 0.0
    while begun:
        c = lowest(begun)
        begun &= begun - 1
        ahead = min(s.left[c], burst / 2 + (-owed) % burst / count)
        s.left[c] -= ahead
        each += ahead
    each /= members_of(others)
    while others:
        c = lowest(others)
        others &= others - 1
        s.left[c] += each


@kernel
def members_of(places: int) -> int:
    """How many places a set has."""
    count = 0
    while places:
        places &= places - 1
        count += 1
    return count


@inlined
def settle_rate(s: Any, c: int, rate: float, now: float) -> None:
    """A client goes on at this rate."""
    s.rate[c] = rate
    s.when[c] = now + max(0.0, np.ceil(s.left[c] / rate - 1e-6))


@inlined
def bank_speed(asked: float, left: float) -> float:
    """The part of its speed at which an engine works that asks for ``asked`` words a cycle where ``left`` are.

    A request that has waited long goes first, so that as many beats as are ahead pass in that time at least.
    """
    return max(min(1.0, left / asked), AHEAD_BEATS / STARVATION_CYCLES) if asked > 0 else 1.0


@inlined
def slow_down(s: Any, q: int, speed: float, now: float) -> None:
    """Let the engine of a queue that computes go on at another speed."""
    s.left[q] = max(0.0, s.left[q] - s.rate[q] * (now - s.since[q]))
    s.since[q], s.rate[q] = now, speed
    s.when[q] = now + s.left[q] / speed
