"""Rates between two events: the DRAM's bandwidth among its clients, a core's banks among its engines."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import inlined, kernel
from ommatid.simulator.banks import AHEAD_BEATS, STARVATION_CYCLES
from ommatid.simulator.bits import lowest, size
from ommatid.simulator.state import LANES, PORTS, RATES

#: A core's engines by their priority at a bank: mx, vx, load, store.
PRIORITY = (2, 3, 0, 1)


@inlined
def move(s: Any, client: int, cap: float, claim: float) -> None:
    """A client begins to move its bytes, at most ``cap`` a cycle, and ``claim`` at once if there is credit."""
    s.cap[client], s.claim[client] = cap, claim
    s.moving |= 1 << client
    s.begun |= 1 << client
    s.changed |= RATES


@inlined
def leave(s: Any, client: int, now: float) -> None:
    """A client is through, and leaves its share of the DRAM to the others."""
    s.when[client] = np.inf
    s.credit += s.rate[client] * (now - s.since[client]) - s.left[client]  # of its last cycle
    s.moving &= ~(1 << client)
    s.changed |= RATES


@inlined
def dram_rates(s: Any, now: float) -> None:
    """Solve the shares of the clients that move bytes anew, and with them when each is through.

    What nobody used is credit, for those that begin now.
    """
    s.credit = min(s.most_credit, s.credit + s.spare * (now - s.solved))
    s.solved = now
    if s.moving & (s.moving - 1):
        divide(s, now)
    elif s.moving:
        c = lowest(s.moving)
        go_on(s, c, now)
        if s.spare <= 0 or s.begun:
            pay(s, c)
        s.spare = s.bandwidth - min(s.cap[c], s.bandwidth)
        settle_rate(s, c, min(s.cap[c], s.bandwidth), now)
    else:
        s.spare = s.bandwidth
    s.begun = 0


@inlined
def divide(s: Any, now: float) -> None:
    """Divide the bandwidth among several clients, max-min fair: none above its cap; what one leaves goes to the others."""
    moving, count, all_used = s.moving, size(s.moving), s.spare <= 0
    while moving:
        go_on(s, lowest(moving), now)
        moving &= moving - 1
    in_turn = all_used and s.begun and s.begun != s.moving
    owed = bytes_left(s, s.moving & ~s.begun) if in_turn else 0.0
    paying = s.moving if all_used else s.begun
    while paying:
        pay(s, lowest(paying))
        paying &= paying - 1
    if in_turn:
        take_turns(s, count, owed)
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
        settle_rate(s, lowest(unsettled), equal, now)
        unsettled &= unsettled - 1


@inlined
def go_on(s: Any, c: int, now: float) -> None:
    """What a client has moved until now is no longer left."""
    s.left[c] -= s.rate[c] * (now - s.since[c])
    s.since[c] = now


@inlined
def pay(s: Any, c: int) -> None:
    """A client moves bytes at once by credit."""
    paid = max(0.0, min(s.credit, s.claim[c]))
    s.credit -= paid
    s.left[c] -= paid * min(1.0, s.cap[c] / s.bandwidth)


@inlined
def bytes_left(s: Any, clients: int) -> float:
    """What these clients have left to move."""
    left = 0.0
    while clients:
        left += s.left[lowest(clients)]
        clients &= clients - 1
    return left


@inlined
def take_turns(s: Any, count: int, owed: float) -> None:
    """Clients that begin while others use all of the DRAM have their turns before a round of ``count`` is over.

    A first burst comes after (count - 2) / 2 of theirs on average, and what is credited to them of the burst under
    way (they are owed so many bytes, of which whole bursts are not granted) is its; so is it ahead of equal rates by
    what follows, and they are behind.
    """
    under_way = np.ceil(owed / s.burst) * s.burst - owed
    others, begun, each = s.moving & ~s.begun, s.begun, 0.0
    while begun:
        c = lowest(begun)
        begun &= begun - 1
        ahead = min(s.left[c], s.burst / 2 + under_way / count)
        s.left[c] -= ahead
        each += ahead
    each /= size(others)
    while others:
        s.left[lowest(others)] += each
        others &= others - 1


@inlined
def settle_rate(s: Any, c: int, rate: float, now: float) -> None:
    """A client goes on at this rate."""
    s.rate[c] = rate
    s.when[c] = now + max(0.0, np.ceil(s.left[c] / rate - 1e-6))


@inlined
def ask_banks(work: Any, s: Any, core: int, words: float, now: float) -> None:
    """An engine asks a core's banks for so many words a cycle; solve speeds where they do not suffice."""
    s.words[core] += words
    if s.words[core] > s.enough:
        share_banks(work, s, core, now)


@inlined
def leave_banks(work: Any, s: Any, core: int, words: float, now: float) -> None:
    """It asks for them no longer."""
    s.words[core] -= words
    if s.slow[core]:
        share_banks(work, s, core, now)


@kernel
def share_banks(work: Any, s: Any, core: int, now: float) -> None:
    """Solve the speeds of a core's engines anew."""
    s.slow[core] = s.words[core] > s.enough
    left = s.banks
    for engine in PRIORITY:
        q = core * LANES + engine
        if s.running[q] == len(work):
            continue
        w = work[s.running[q]]
        speed = bank_speed(w.words, left)
        left = max(0.0, left - w.words * speed)
        if s.moving >> q & 1:
            s.cap[q] = speed * w.cap
            s.changed |= RATES
        else:
            slow_down(s, q, speed, now)
            s.cap[q] = speed
            s.changed |= PORTS


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
