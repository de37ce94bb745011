"""The event loop of the timing executor: queues, tokens, engines, banks, the fetcher and the DRAM in time.

The rules are those of ``docs/isa.md``, section "Time"; where that steps cycle by cycle, this goes from one event
to the next with rates in between: bytes a cycle of the DRAM's clients, beats a cycle of the engines. An event costs
time only for the queues that it may concern: sets of queues are masks, the tokens that an instruction waits for are
compared and taken all at once, as the bytes of a number (``state.py``, ``bits.py``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import entry, inlined
from ommatid.isa.instructions import INSTRUCTION_BYTES
from ommatid.simulator.bits import ONES, ahead, least, lowest, members, unowned, until, without
from ommatid.simulator.ports import begin_stream, beside_landing, leaves_engine, port_rates
from ommatid.simulator.rates import PRIORITY, bank_speed, dram_rates, slow_down
from ommatid.simulator.state import (
    BANDWIDTH,
    BANK,
    BUSY,
    CAPACITY,
    CROSSING,
    DMA_ENGINES,
    DONE,
    ENGINES,
    FETCH,
    FETCHER,
    IDLE,
    LANDING,
    LANES,
    LATENCY,
    TOKEN,
    UNDER_WAY,
)  # fmt: skip

CROSS_CORE_CYCLES = 8
FETCH_BLOCK, FETCH_AHEAD = 32, 256
DMA_QUEUES = ONES * ((1 << DMA_ENGINES) - 1)
NEVER = 1 << 62


@entry
def run(work: Any, state: Any) -> None:
    """From event to event until nothing happens any more."""
    s, work = state[0], unowned(work)
    now = 0.0
    settle(work, s, now, s.idle)
    while True:
        if s.changed:
            dram_rates(s, now)
            s.changed = 0
            if s.shared:
                port_rates(work, s, now)
        now = soonest(s)
        if now == np.inf:
            return
        settle(work, s, now, pass_on(work, s, now))


@inlined
def soonest(s: Any) -> float:
    """When something ends next, inf if nothing does."""
    soon = np.inf
    for at in range(0, s.places, LANES):
        soon = min(soon, least(s.when, at))
    return soon


@inlined
def pass_on(work: Any, s: Any, now: float) -> int:
    """What ends now: engines and the fetcher are free, data and tokens arrive; the queues that may go on by that."""
    due, ask = 0, 0
    for at in range(0, s.places, LANES):
        due |= until(s.when, at, now) << at
    while due:
        place = lowest(due)
        due &= due - 1
        lane = place % LANES
        if lane < ENGINES:
            ask |= through(work, s, place, now)
        elif lane < LANDING + DMA_ENGINES:
            ask |= land(work, s, place - LANDING, now)
        elif place == FETCHER:
            ask |= fetched(work, s, now)
        elif place == CROSSING:
            ask |= arrive(s, now)
        else:
            s.changed = 1
    return ask


@inlined
def settle(work: Any, s: Any, now: float, ask: int) -> None:
    """All that can happen now to the queues in ``ask``: tokens are put, instructions start; the fetcher goes on."""
    ask &= s.idle | s.stuck
    while ask:
        q = lowest(ask)
        ask &= ask - 1
        if s.stuck >> q & 1:
            ask |= land(work, s, q, now)
        if s.idle >> q & 1:
            ask |= issue(work, s, q, now)
        ask &= s.idle | s.stuck
    if s.behind == 0:
        block = min(FETCH_BLOCK, len(work) - s.fetched)
        s.behind = NEVER
        if block > 0:
            move(s, FETCHER, float(block * INSTRUCTION_BYTES), s.bandwidth, s.most_credit, now)
    turned = (s.moving ^ s.was_moving | s.landing ^ s.was_landing) & DMA_QUEUES
    if turned:
        s.was_moving, s.was_landing = s.moving, s.landing
        explain(s, turned, now)


@inlined
def fetched(work: Any, s: Any, now: float) -> int:
    """A block of instructions has been fetched; the queues that may go on by that."""
    leave(s, FETCHER, now)
    before, ask, idle = s.fetched, 0, s.idle
    s.fetched += min(FETCH_BLOCK, len(work) - s.fetched)
    s.goal = s.fetched + min(FETCH_BLOCK, len(work) - s.fetched) - FETCH_AHEAD
    s.behind = 0
    for q in range(s.places):
        s.behind += 0 <= s.head[q] < s.goal
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
    dma = w.dram_bytes > 0
    longer = now - w.start - (w.pace if dma else w.cost)
    longer = longer if longer > 1e-6 else 0.0
    s.account[q, BUSY] += now - w.start - longer
    s.account[q, BANDWIDTH if dma else BANK] += longer
    s.doing[q], s.doing_since[q] = IDLE, now
    s.running[q] = -1
    s.idle |= (s.head[q] >= 0) << q
    s.when[q] = np.inf
    ask_banks(work, s, q // LANES, -w.words, now)
    if w.after == 0 and not dma and s.done_count[q] == 0 and not w.signal & s.full[q]:
        return 1 << q | put(w, s, q, now)
    at = (s.done_first[q] + s.done_count[q]) % DONE
    done = max(s.moved[q] + w.tail, w.start + w.cost + 1) + w.after if dma else now + w.after
    s.done[q, at], s.done_time[q, at] = i, done
    s.done_count[q] += 1
    if q % LANES >= DMA_ENGINES:  # there was no room
        s.stuck |= 1 << q
        return 1 << q
    s.landing |= 1 << q
    if s.done_count[q] == 1:
        s.when[q + LANDING] = done
    if s.shared:
        leaves_engine(s, q, at)
    return 1 << q


@inlined
def land(work: Any, s: Any, q: int, now: float) -> int:
    """The done instructions of a queue put their tokens, in order, while there is room; who may go on by that."""
    ask, soon = 0, np.inf
    s.stuck &= ~(1 << q)
    while s.done_count[q] > 0:
        first = s.done_first[q]
        if s.done_time[q, first] > now:
            soon = s.done_time[q, first]
            break
        w = work[s.done[q, first]]
        if w.signal & s.full[q]:
            s.stuck |= 1 << q
            break
        ask |= put(w, s, q, now) | (s.done_count[q] == s.done_most[q]) << q
        s.done_first[q] = (first + 1) % DONE
        s.done_count[q] -= 1
    if q % LANES < DMA_ENGINES:
        s.when[q + LANDING] = soon
        if s.done_count[q] == 0:
            s.landing &= ~(1 << q)
    return ask


@inlined
def put(w: Any, s: Any, q: int, now: float) -> int:
    """An instruction of a queue puts its tokens, for which there is room; the queues that may go on by that."""
    core, shift, signal, ask = q // LANES, q % LANES * 8, w.signal, 0
    w.finish = now
    while signal:
        to = lowest(signal)
        signal &= signal - 1
        ask |= (s.missing[to] >> q & 1) << to
        if to // LANES == core:
            s.held[to, core] += 1 << shift
        else:
            s.crossing[to, core] += 1 << shift
        if (s.held[to, core] + s.crossing[to, core]) >> shift & 15 == CAPACITY:
            s.full[q] |= 1 << to
            s.crowded |= 1 << q
    others = w.signal & ~(255 << LANES * core)
    if others:
        send_off(s, q, others, now)
    return ask


@inlined
def send_off(s: Any, q: int, others: int, now: float) -> None:
    """Tokens of a queue go on their way to queues of other cores."""
    at = (s.way_first + s.way_count) % UNDER_WAY
    s.way_time[at], s.way_from[at], s.way_to[at] = now + CROSS_CORE_CYCLES, q, others
    s.way_count += 1
    s.when[CROSSING] = s.way_time[s.way_first]


@inlined
def arrive(s: Any, now: float) -> int:
    """Tokens of other cores arrive; the queues that may go on by that."""
    ask = 0
    while s.way_count > 0 and s.way_time[s.way_first] <= now:
        q, to = s.way_from[s.way_first], s.way_to[s.way_first]
        while to:
            token, c = 1 << q % LANES * 8, lowest(to)
            to &= to - 1
            ask |= (s.missing[c] >> q & 1) << c
            s.crossing[c, q // LANES] -= token
            s.held[c, q // LANES] += token
        s.way_first = (s.way_first + 1) % UNDER_WAY
        s.way_count -= 1
    s.when[CROSSING] = s.way_time[s.way_first] if s.way_count > 0 else np.inf
    return ask


@inlined
def issue(work: Any, s: Any, q: int, now: float) -> int:
    """Start a free engine's next instruction if the fetcher and the tokens allow; who may go on by that."""
    i = s.head[q]
    w = work[i]
    cause = obstacle(w, i, s, q)
    if cause >= 0:
        change_account(s, q, cause, now)
        return 0
    change_account(s, q, BUSY, now)
    ask = take_tokens(w, s, q)
    w.start = now
    s.running[q], s.head[q] = i, w.next
    ahead(work, w.next)
    s.idle &= ~(1 << q)
    s.behind -= (i < s.goal) & (w.next < 0 or w.next >= s.goal)
    if w.dram_bytes > 0:
        move(s, q, w.dram_bytes, w.cap, w.claim, now)
        if s.shared and w.goes_to:
            begin_stream(s, i, q, w.goes_to)
    else:
        pace = w.pace
        if q % LANES == 0 and s.done_count[q] > 0:
            pace = beside_landing(work, s, q, pace, now)
        s.left[q], s.rate[q], s.since[q], s.when[q] = pace, 1.0, now, now + pace
    ask_banks(work, s, q // LANES, w.words, now)
    return ask


@inlined
def obstacle(w: Any, i: int, s: Any, q: int) -> int:
    """Why instruction i cannot start on its free engine (a column of the account), -1 if it can."""
    s.missing[q] = 0
    if i >= s.fetched:
        return FETCH
    if s.done_count[q] >= s.done_most[q]:
        return TOKEN + lowest(s.full[q]) % LANES if s.full[q] else LATENCY
    missing = members(without(w.takes, s.held[q, q // LANES])) << q // LANES * LANES
    others = w.others
    while others:
        p = lowest(others)
        others &= others - 1
        missing |= (s.held[q, p // LANES] >> p % LANES * 8 & 15 == 0) << p
    s.missing[q] = missing
    return lack(s, q) if missing else -1


@inlined
def lack(s: Any, q: int) -> int:
    """What a queue waits for that lacks tokens."""
    missing, base = s.missing[q], q // LANES * LANES
    coming, others = 0, missing & ~(255 << base)
    while others:
        p = lowest(others)
        others &= others - 1
        coming |= (s.crossing[q, p // LANES] >> p % LANES * 8 & 15 > 0) << p
    engines = missing | missing >> 2 * LANES
    cause = TOKEN + lowest(engines | engines >> LANES)
    cause = LATENCY if missing & ~coming & s.landing else cause
    return BANDWIDTH if missing & ~coming & s.moving else cause


@inlined
def explain(s: Any, turned: int, now: float) -> None:
    """Loads or stores began or ceased to move bytes: the queues that lack their tokens wait for another cause."""
    idle = s.idle
    while idle:
        q = lowest(idle)
        idle &= idle - 1
        if s.missing[q] & turned:
            change_account(s, q, lack(s, q), now)


@inlined
def take_tokens(w: Any, s: Any, q: int) -> int:
    """Take a token of each queue that instruction w waits for; the queues that have room by that."""
    s.held[q, q // LANES] -= w.takes
    others = w.others
    while others:
        p = lowest(others)
        others &= others - 1
        s.held[q, p // LANES] -= 1 << p % LANES * 8
    if not s.crowded:
        return 0
    ask, crowded = 0, s.crowded & (w.others | members(w.takes) << q // LANES * LANES)
    while crowded:
        p = lowest(crowded)
        crowded &= crowded - 1
        if s.full[p] >> q & 1:
            s.full[p] &= ~(1 << q)
            s.crowded &= ~((s.full[p] == 0) << p)
            ask |= 1 << p
    return ask


@inlined
def move(s: Any, client: int, size: float, cap: float, claim: float, now: float) -> None:
    """A client has ``size`` bytes to move, at most ``cap`` a cycle, and ``claim`` at once if there is credit."""
    s.left[client], s.cap[client], s.since[client], s.rate[client] = size, cap, now, 0.0
    s.claim[client] = claim
    s.moving |= 1 << client
    s.changed = 1


@inlined
def leave(s: Any, client: int, now: float) -> None:
    """A client is through, and leaves its share of the DRAM to the others."""
    s.when[client] = np.inf
    s.credit += s.rate[client] * (now - s.since[client]) - s.left[client]  # of its last cycle
    s.moving &= ~(1 << client)
    s.changed = 1


@inlined
def ask_banks(work: Any, s: Any, core: int, words: float, now: float) -> None:
    """An engine asks a core's banks for ``words`` more a cycle (or less); solve speeds where they do not suffice."""
    s.words[core] += words
    over = s.words[core] > s.banks + 1e-9
    if over or s.slow[core]:
        s.slow[core] = over
        share_banks(work, s, core, now)


@inlined
def share_banks(work: Any, s: Any, core: int, now: float) -> None:
    """Solve the speeds of a core's engines anew."""
    left = s.banks
    for engine in PRIORITY:
        q = core * LANES + engine
        if s.running[q] < 0:
            continue
        w = work[s.running[q]]
        speed = bank_speed(w.words, left)
        left = max(0.0, left - w.words * speed)
        if s.moving >> q & 1:
            s.cap[q] = speed * w.cap
            s.changed = 1
        else:
            slow_down(s, q, speed, now)


@inlined
def change_account(s: Any, q: int, column: int, now: float) -> None:
    """From now on a queue's cycles belong to another column."""
    s.account[q, s.doing[q]] += now - s.doing_since[q]
    s.doing[q], s.doing_since[q] = column, now
