"""The event loop of the timing executor: queues, engines, the fetcher and what is under way, in time.

The rules are those of ``docs/isa.md``, section "Time"; where that steps cycle by cycle, this goes from one event
to the next with rates in between: bytes a cycle of the DRAM's clients, beats a cycle of the engines. An event costs
time only for the queues that it may concern: sets of queues are masks, the tokens that an instruction waits for are
compared and taken all at once, as the bytes of a number (``state.py``, ``bits.py``, ``tokens.py``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import entry, inlined
from ommatid.isa.instructions import INSTRUCTION_BYTES
from ommatid.simulator.accounts import charge, explain, obstacle, spend, spent
from ommatid.simulator.bits import ONES, ahead, first, lowest, members, unowned
from ommatid.simulator.ports import begin_stream, beside_landing, leaves_engine, port_rates
from ommatid.simulator.rates import ask_banks, dram_rates, leave, leave_banks, move
from ommatid.simulator.state import (
    BYTES,
    CROSSING,
    DMA_ENGINES,
    DONE,
    ENGINES,
    FETCHER,
    LANDING,
    LANES,
    PORTS,
    RATES,
    core_of,
    several,
)
from ommatid.simulator.tokens import absent, arrive, give, take

FETCH_BLOCK, FETCH_AHEAD = 32, 256
DMA_QUEUES = ONES * ((1 << DMA_ENGINES) - 1)
NEVER = 1 << 62
SOON = 12  # instructions from one that starts to one that will before long, in the program's order


@entry
def run(work: Any, state: Any) -> None:
    """From event to event until nothing happens any more."""
    s, work = state[0], unowned(work)
    now, ask = 0.0, s.idle
    while True:
        settle(work, s, now, ask)
        if s.changed:
            solve(work, s, now)
        now, due = soonest(s)
        if now == np.inf:
            return
        ask = pass_on(work, s, now, due) & s.idle


@inlined
def settle(work: Any, s: Any, now: float, ask: int) -> None:
    """All that can start now of the queues in ``ask``, and of those that go on by that; the fetcher goes on."""
    while ask:
        q = lowest(ask)
        ask &= ask - 1
        ask |= issue(work, s, q, now)
    if s.behind == 0:
        fetch(work, s, now)


@inlined
def solve(work: Any, s: Any, now: float) -> None:
    """Causes and rates anew."""
    turned = (s.moving ^ s.was_moving | s.landing ^ s.was_landing) & DMA_QUEUES
    if turned:
        s.was_moving, s.was_landing = s.moving, s.landing
        explain(s, turned, now)
    if s.changed & RATES:
        dram_rates(s, now)
    if several(s) and s.shared and s.changed & (RATES | PORTS):
        port_rates(work, s, now)
    s.changed = 0


@inlined
def soonest(s: Any) -> tuple[float, int]:
    """When something ends next (inf: nothing does), and the places where it does."""
    now, due = first(s.when, 0)
    for at in range(LANES, len(s.when), LANES):
        then, places = first(s.when, at)
        due = (due if now <= then else 0) | (places << at if then <= now else 0)
        now = min(now, then)
    return now, due


@inlined
def pass_on(work: Any, s: Any, now: float, due: int) -> int:
    """What ends now: engines and the fetcher are free, data and tokens arrive; the queues that may go on by that."""
    ask = 0
    while due:
        place = lowest(due)
        due &= due - 1
        lane = place % LANES if several(s) else place
        if lane < ENGINES:
            ask |= through(work, s, place, now)
        elif lane < LANDING + DMA_ENGINES:
            ask |= land(work, s, place - LANDING, now)
        elif place == FETCHER:
            ask |= fetched(work, s, now)
        elif several(s) and place == CROSSING:
            ask |= arrive(s, now)
        else:
            s.changed |= PORTS
    return ask


@inlined
def fetch(work: Any, s: Any, now: float) -> None:
    """The next block of instructions is fetched, if there is one."""
    block = min(FETCH_BLOCK, len(work) - s.fetched)
    s.behind = NEVER
    if block > 0:
        s.left[FETCHER], s.since[FETCHER], s.rate[FETCHER] = block * INSTRUCTION_BYTES, now, 0.0
        move(s, FETCHER, s.bandwidth, s.most_credit)


@inlined
def fetched(work: Any, s: Any, now: float) -> int:
    """A block of instructions has been fetched; the queues that may go on by that."""
    leave(s, FETCHER, now)
    before, ask, idle = s.fetched, 0, s.idle
    s.fetched += min(FETCH_BLOCK, len(work) - s.fetched)
    s.goal = s.fetched + min(FETCH_BLOCK, len(work) - s.fetched) - FETCH_AHEAD
    s.behind = 0
    for q in range(len(s.head)):
        s.behind += s.head[q] < s.goal
    while idle:
        q = lowest(idle)
        idle &= idle - 1
        ask |= (before <= s.head[q] < s.fetched) << q
    return ask


@inlined
def through(work: Any, s: Any, q: int, now: float) -> int:
    """A DMA's last burst has moved, or an instruction leaves its engine; who may go on by that."""
    if s.moving >> q & 1:
        leave(s, q, now)
        w = work[s.running[q]]
        s.moved[q] = now
        if w.start + w.hold > now:  # by its port
            s.left[q], s.rate[q], s.since[q], s.when[q] = w.start + w.hold - now, 1.0, now, w.start + w.hold
            return 0
    return free(work, s, q, now)


@inlined
def free(work: Any, s: Any, q: int, now: float) -> int:
    """An engine's instruction leaves it, and is done now or ``after`` a while; who may go on by that."""
    i = s.running[q]
    w = work[i]
    w.released = now
    charge(w, s, q, now)
    ask = (s.head[q] < len(work)) << q
    s.idle |= ask
    s.running[q], s.when[q] = len(work), np.inf
    leave_banks(work, s, core_of(s, q), w.words, now)
    signal = np.int64(w.signal)
    lane = q % LANES if several(s) else q
    if lane >= DMA_ENGINES or (w.after == 0) & (s.done_count[q] == 0):
        short = give(s, q, signal, now)
        if short == 0:
            return ask | put(w, s, q, signal, now)
        s.short[q] = short
    at = (s.done_first[q] + s.done_count[q]) % DONE
    done = max(s.moved[q] + w.tail, w.start + w.cost + 1) + w.after + w.late if w.dma else now + w.after
    s.done[q, at], s.done_time[q, at] = i, done
    s.done_count[q] += 1
    s.blocked |= (s.done_count[q] == s.done_most[q]) << q
    if lane >= DMA_ENGINES:  # there was no room
        s.stuck |= 1 << q
        return ask
    s.landing |= 1 << q
    s.changed |= BYTES
    if s.done_count[q] == 1:
        s.when[q + LANDING] = done
    if several(s) and s.shared:
        leaves_engine(s, q, at)
    return ask


@inlined
def land(work: Any, s: Any, q: int, now: float) -> int:
    """The done instructions of a queue put their tokens, in order, while there is room; who may go on by that."""
    ask, soon = 0, np.inf
    s.stuck &= ~(1 << q)
    while s.done_count[q] > 0:
        at = s.done_first[q]
        if s.done_time[q, at] > now:
            soon = s.done_time[q, at]
            break
        w = work[s.done[q, at]]
        signal = np.int64(w.signal)
        short = give(s, q, signal, now)
        if short:
            s.short[q], s.stuck = short, s.stuck | 1 << q
            break
        s.blocked &= ~(1 << q)
        ask |= put(w, s, q, signal, now) | (s.done_count[q] == s.done_most[q]) << q
        s.done_first[q] = (at + 1) % DONE
        s.done_count[q] -= 1
    if q % LANES < DMA_ENGINES:
        s.when[q + LANDING] = soon
        if s.done_count[q] == 0:
            s.landing &= ~(1 << q)
            s.changed |= BYTES
    return ask


@inlined
def put(w: Any, s: Any, q: int, signal: int, now: float) -> int:
    """An instruction of a queue has put its tokens; the queues that may go on by that."""
    w.finish = now
    ask = s.wanted[q] & signal
    s.wanted[q] ^= ask
    return ask


@inlined
def issue(work: Any, s: Any, q: int, now: float) -> int:
    """Start a free engine's next instruction if the fetcher and the tokens allow; who may go on by that."""
    i = s.head[q]
    lanes, others = absent(s, q)
    if (i >= s.fetched) | s.blocked >> q & 1 | (lanes != 0) | (others != 0):
        spend(s, q, obstacle(s, q, members(lanes) << core_of(s, q) * LANES | others), now)
        return 0
    spent(s, q, now)
    ask, room = 0, take(s, q)
    while room:
        ask |= land(work, s, lowest(room), now) & s.idle
        room &= room - 1
    w = work[i]
    ahead(work, i + SOON)
    w.start = now
    following = work[min(w.next, len(work) - 1)]
    s.running[q], s.head[q], s.takes[q] = i, w.next, following.takes
    if several(s):
        s.others[q] = following.others
    s.idle &= ~(1 << q)
    s.behind -= (i < s.goal) & (w.next >= s.goal)
    left, rate, ends = w.pace, 1.0, now + w.pace
    if w.dma:
        move(s, q, w.cap, w.claim)
        left, rate, ends = w.dram_bytes, 0.0, np.inf
    elif q % LANES == 0 and s.done_count[q] > 0:
        left = beside_landing(work, s, q, w.pace, now)
        ends = now + left
    s.left[q], s.rate[q], s.since[q], s.when[q] = left, rate, now, ends
    if several(s) and s.shared and w.goes_to:
        begin_stream(s, i, q, np.int64(w.goes_to))
    ask_banks(work, s, core_of(s, q), w.words, now)
    return ask
