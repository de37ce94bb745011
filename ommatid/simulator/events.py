"""The event loop of the timing executor: queues, tokens, engines, banks, the fetcher and the DRAM in time.

The rules are those of ``docs/isa.md``, section "Time"; where that steps cycle by cycle, this goes from one event
to the next with rates in between: bytes a cycle of the DRAM's clients, beats a cycle of the engines. Times are
cycles in float64. A queue's number is 5 * core + engine; sets of queues are masks of these numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from ommatid.isa.instructions import INSTRUCTION_BYTES, MOST_CORES, Engine
from ommatid.simulator.rates import bank_speeds, dram_rates

Array = np.ndarray[Any, Any]

ENGINES = len(Engine)
QUEUES = ENGINES * MOST_CORES
FETCHER = QUEUES  # the client of the DRAM after those of the queues
CLIENTS = QUEUES + 1
EVERY = (1 << QUEUES) - 1
DMA_ENGINES = 2  # load and store are the first two engines of a core
CAPACITY = 15
CROSS_CORE_CYCLES = 8
FETCH_BLOCK, FETCH_AHEAD = 32, 256
DONE = 64  # instructions of a queue that may have left the engine and not put their tokens

#: Columns of an account; TOKEN + engine of the producer.
BUSY, BANK, BANDWIDTH, LATENCY, FETCH, TOKEN = range(6)
IDLE = TOKEN + ENGINES
COLUMNS = IDLE + 1

#: An instruction. ``cost`` are its engine cycles alone on an idle chip; ``words`` the SRAM words that it asks the
#: banks of its core for in a cycle; ``dram_bytes`` what it moves, ``after`` the cycles from free engine to end.
#: Its waits are ``links[wait_at:signal_at]``, its signals ``links[signal_at:links_end]``; times -1: not yet.
WORK = np.dtype(
    [
        ("queue", "i8"), ("cost", "f8"), ("words", "f8"), ("dram_bytes", "f8"), ("after", "f8"), ("next", "i8"),
        ("wait_at", "i8"), ("signal_at", "i8"), ("links_end", "i8"),
        ("start", "f8"), ("released", "f8"), ("finish", "f8"),
    ]
)  # fmt: skip


class Chip(NamedTuple):
    """What the loop needs of a target: bytes a cycle, bytes a cycle that a client's requests allow, banks."""

    bandwidth: float
    request_rate: float
    banks: float


class State(NamedTuple):
    """Everything that changes besides the WORK records; arrays by queue unless said otherwise."""

    used: Array  # the queues that have instructions
    head: Array  # the next instruction, -1: none left
    running: Array  # the instruction that holds the engine, -1: none
    until: Array  # by client: when it is free, inf where it does nothing
    left: Array  # by client: bytes (DMA) or cycles (others) to go as of ``since``
    rate: Array  # by client: bytes a cycle, or the speed of an engine that computes
    cap: Array  # by client: the most bytes a cycle
    since: Array  # by client
    moving: Array  # by client: 1 while it has bytes to move
    words: Array  # by core: words a cycle that its engines ask for
    slow: Array  # by core: 1 while its banks do not suffice
    done: Array  # [queue, DONE]: instructions that left the engine and have not put their tokens, a ring
    done_time: Array
    done_first: Array
    done_count: Array
    held: Array  # [producer, consumer]: tokens put and not taken
    token_first: Array
    token_time: Array  # [producer, consumer, CAPACITY]: when they arrive, a ring
    wake: Array  # when a token on its way arrives
    doing: Array  # the account's column that runs
    doing_since: Array
    account: Array  # [queue, column]: whole cycles
    program: Array  # instructions fetched; the first that has not started; 1 where DRAM shares must be solved


FETCHED, OLDEST, CHANGED = range(3)


def prepare(queue: Array, cost: Array, words: Array, dram_bytes: Array, after: Array, wait: Array, signal: Array
            ) -> tuple[Array, Array]:  # fmt: skip
    """WORK records of instructions, and the queues that their token masks name, one after the other."""
    work = np.zeros(len(queue), WORK)
    columns = {"queue": queue, "cost": cost, "words": words, "dram_bytes": dram_bytes, "after": after}
    for name, values in (*columns.items(), ("start", -1), ("released", -1), ("finish", -1), ("next", -1)):
        work[name] = values
    order = np.argsort(queue, kind="stable")
    same = queue[order[1:]] == queue[order[:-1]]
    work["next"][order[:-1][same]] = order[1:][same]
    masks = np.stack([wait, signal], axis=1).astype("<u4").view(np.uint8).reshape(len(queue), 2, 4)
    bits = np.unpackbits(masks, axis=2, bitorder="little").view(np.bool_)
    ends = np.concatenate([[0], np.cumsum(bits.sum(axis=2, dtype=np.int64))])
    work["wait_at"], work["signal_at"], work["links_end"] = ends[:-1:2], ends[1::2], ends[2::2]
    places = np.flatnonzero(bits) % 32  # bit 8 * core + engine
    return work, places // 8 * ENGINES + np.minimum(places % 8, ENGINES - 1)


def fresh(queue: Array) -> State:
    """The state before the first event."""
    used, first = np.unique(queue, return_index=True)
    head = np.full(QUEUES, -1, np.int64)
    head[used] = first
    pairs = (QUEUES, QUEUES)
    return State(
        used=used.astype(np.int64), head=head, running=np.full(QUEUES, -1, np.int64),
        until=np.full(CLIENTS, np.inf), left=np.zeros(CLIENTS), rate=np.zeros(CLIENTS), cap=np.zeros(CLIENTS),
        since=np.zeros(CLIENTS), moving=np.zeros(CLIENTS, np.uint8),
        words=np.zeros(MOST_CORES), slow=np.zeros(MOST_CORES, np.uint8),
        done=np.zeros((QUEUES, DONE), np.int64), done_time=np.zeros((QUEUES, DONE)),
        done_first=np.zeros(QUEUES, np.int64), done_count=np.zeros(QUEUES, np.int64),
        held=np.zeros(pairs, np.int64), token_first=np.zeros(pairs, np.int64),
        token_time=np.zeros((*pairs, CAPACITY)), wake=np.full(QUEUES, np.inf),
        doing=np.full(QUEUES, FETCH, np.int64), doing_since=np.zeros(QUEUES),
        account=np.zeros((QUEUES, COLUMNS), np.int64), program=np.zeros(3, np.int64),
    )  # fmt: skip


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def run(work: Any, links: Any, s: Any, chip: Any) -> None:
    """From event to event until nothing happens any more."""
    now, ask = 0.0, EVERY
    while True:
        settle(work, links, s, chip, now, ask)
        if s.program[CHANGED]:
            dram_rates(s.moving, s.used, s.cap, s.left, s.since, s.rate, s.until, chip.bandwidth, now)
            s.program[CHANGED] = 0
        now = next_event(s)
        if now == np.inf:
            return
        ask = release(work, s, chip, now)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def whole(time: float) -> Any:
    """A time in whole cycles, rounded up; what float64 may have added is not a cycle."""
    return np.int64(np.ceil(time - 1e-6))


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def settle(work: Any, links: Any, s: Any, chip: Any, now: float, ask: int) -> None:
    """All that can happen now to the queues in ``ask``: tokens are put, instructions start; the fetcher goes on."""
    while ask:
        for q in s.used:
            if ask >> q & 1:
                ask &= ~(1 << q)
                if s.done_count[q] > 0:
                    ask |= put_tokens(work, links, s, q, now)
                if s.running[q] < 0 and s.head[q] >= 0:
                    ask |= issue(work, links, s, chip, q, now)
    oldest = s.program[OLDEST]
    while oldest < len(work) and work[oldest].start >= 0:
        oldest += 1
    s.program[OLDEST] = oldest
    block = min(FETCH_BLOCK, len(work) - s.program[FETCHED])
    if not s.moving[FETCHER] and block > 0 and s.program[FETCHED] + block - oldest <= FETCH_AHEAD:
        move(s, FETCHER, float(block * INSTRUCTION_BYTES), chip.request_rate, now)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def put_tokens(work: Any, links: Any, s: Any, q: int, now: float) -> int:
    """The done instructions of a queue put their tokens, in order, while there is room; who may go on by that."""
    ask = 0
    while s.done_count[q] > 0 and s.done_time[q, s.done_first[q]] <= now:
        w = work[s.done[q, s.done_first[q]]]
        for k in range(w.signal_at, w.links_end):
            if s.held[q, links[k]] >= CAPACITY:
                return ask
        for k in range(w.signal_at, w.links_end):
            to = links[k]
            at = (s.token_first[q, to] + s.held[q, to]) % CAPACITY
            s.token_time[q, to, at] = now if q // ENGINES == to // ENGINES else now + CROSS_CORE_CYCLES
            s.held[q, to] += 1
            ask |= 1 << to
        w.finish = now
        s.done_first[q] = (s.done_first[q] + 1) % DONE
        s.done_count[q] -= 1
    return ask


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def issue(work: Any, links: Any, s: Any, chip: Any, q: int, now: float) -> int:
    """Start a free engine's next instruction if the fetcher and the tokens allow; who may go on by that."""
    i = s.head[q]
    w = work[i]
    cause = obstacle(w, i, links, s, q, now)
    if cause >= 0:
        change_account(s, q, cause, now)
        return 0
    ask = 0
    for k in range(w.wait_at, w.signal_at):
        producer = links[k]
        s.token_first[producer, q] = (s.token_first[producer, q] + 1) % CAPACITY
        s.held[producer, q] -= 1
        if s.held[producer, q] == CAPACITY - 1:
            ask |= 1 << producer
    w.start = now
    s.running[q], s.head[q] = i, w.next
    change_account(s, q, BUSY, now)
    if w.dram_bytes > 0:
        move(s, q, w.dram_bytes, min(chip.request_rate, w.dram_bytes / max(w.cost, 1.0)), now)
    else:
        s.left[q], s.rate[q], s.since[q], s.until[q] = w.cost, 1.0, now, now + w.cost
    ask_banks(work, s, chip, q // ENGINES, w.words, now)
    return ask


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def obstacle(w: Any, i: int, links: Any, s: Any, q: int, now: float) -> int:
    """Why instruction i cannot start on its free engine (a column of the account), -1 if it can."""
    if i >= s.program[FETCHED]:
        return FETCH
    if s.done_count[q] >= (DONE if q % ENGINES < DMA_ENGINES else 1):
        return full(links, s, q, s.done[q, s.done_first[q]], w, q)
    cause = COLUMNS
    for k in range(w.wait_at, w.signal_at):
        producer = links[k]
        if s.held[producer, q] == 0:
            if s.moving[producer]:
                cause = BANDWIDTH
            elif producer % ENGINES < DMA_ENGINES and s.done_count[producer] > 0:
                cause = min(cause, LATENCY)
            else:
                cause = min(cause, TOKEN + producer % ENGINES)
        elif s.token_time[producer, q, s.token_first[producer, q]] > now:
            s.wake[q] = s.token_time[producer, q, s.token_first[producer, q]]
            cause = min(cause, TOKEN + producer % ENGINES)
    return cause if cause < COLUMNS else -1


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def full(links: Any, s: Any, q: int, done: int, w: Any, own: int) -> int:
    """The column of the queue that takes no token of an instruction that is done, LATENCY if none is full."""
    for to in s.used:
        if s.held[q, to] >= CAPACITY:
            return TOKEN + to % ENGINES
    return LATENCY


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def move(s: Any, client: int, size: float, cap: float, now: float) -> None:
    """A client has ``size`` bytes to move, at most ``cap`` a cycle."""
    s.left[client], s.cap[client], s.since[client], s.rate[client] = size, cap, now, 0.0
    s.moving[client] = 1
    s.program[CHANGED] = 1


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def ask_banks(work: Any, s: Any, chip: Any, core: int, words: float, now: float) -> None:
    """An engine asks a core's banks for ``words`` more a cycle (or less); solve speeds where they do not suffice."""
    if words == 0:
        return
    s.words[core] += words
    over = s.words[core] > chip.banks + 1e-9
    if over or s.slow[core]:
        bank_speeds(work, s, chip, core, now)
        s.slow[core] = over


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def change_account(s: Any, q: int, column: int, now: float) -> None:
    """From now on a queue's cycles belong to another column."""
    if s.doing[q] != column:
        s.account[q, s.doing[q]] += whole(now) - whole(s.doing_since[q])
        s.doing[q], s.doing_since[q] = column, now


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def next_event(s: Any) -> float:
    """When something happens next, inf if nothing does."""
    soon = s.until[FETCHER]
    for q in s.used:
        soon = min(soon, s.until[q], s.wake[q])
        if s.done_count[q] > 0 and s.wait_done[q]:
            soon = min(soon, s.done_time[q, s.done_first[q]])
    return soon


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def release(work: Any, s: Any, chip: Any, now: float) -> int:
    """Engines and the fetcher whose time has come are free, tokens and data arrive; the queues that may go on."""
    ask = 0
    for q in s.used:
        if s.wake[q] <= now:
            s.wake[q] = np.inf
            ask |= 1 << q
        if s.until[q] <= now:
            ask |= EVERY if s.moving[q] else 1 << q
            free(work, s, chip, q, now)
        if s.done_count[q] > 0 and s.done_time[q, s.done_first[q]] <= now:
            ask |= 1 << q
    if s.until[FETCHER] <= now:
        s.program[FETCHED] = min(len(work), s.program[FETCHED] + FETCH_BLOCK)
        leave(s, FETCHER)
        ask = EVERY
    return ask


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def free(work: Any, s: Any, chip: Any, q: int, now: float) -> None:
    """An engine's instruction leaves it, and is done now or ``after`` a while."""
    w = work[s.running[q]]
    at = (s.done_first[q] + s.done_count[q]) % DONE
    s.done[q, at], s.done_time[q, at] = s.running[q], now + w.after
    s.done_count[q] += 1
    w.released = now
    s.running[q] = -1
    alone = whole(max(w.cost, w.dram_bytes / min(chip.bandwidth, chip.request_rate)))
    longer = whole(now) - whole(w.start) - alone
    change_account(s, q, IDLE, now)
    if longer > 0:
        s.account[q, BUSY] -= longer
        s.account[q, BANDWIDTH if w.dram_bytes > 0 else BANK] += longer
    leave(s, q)
    ask_banks(work, s, chip, q // ENGINES, -w.words, now)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def leave(s: Any, client: int) -> None:
    """A client is through, and leaves its share of the DRAM to the others."""
    s.until[client] = np.inf
    if s.moving[client]:
        s.moving[client] = 0
        s.program[CHANGED] = 1
