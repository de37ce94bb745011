"""The event loop of the timing executor: queues, tokens, engines, the fetcher and the DRAM in time.

The rules are those of ``docs/isa.md``, section "Time". A queue's number is its bit in the token masks:
8 * core + engine. Times are cycles in float64; the loop goes from one event to the next, and settles at each
all that can happen at that moment. Everything that changes is in two arrays: a WORK record for each
instruction, and one STATE record.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from ommatid.simulator.dram import share

Array = np.ndarray[Any, Any]

QUEUES = 32
FETCHER = QUEUES  # the client of the DRAM after those of the queues
CLIENTS = QUEUES + 1
DMA_ENGINES = 2  # load and store are the first two engines of a core
CAPACITY = 15
CROSS_CORE_CYCLES = 8
FETCH_BLOCK, FETCH_AHEAD, INSTRUCTION_BYTES = 32, 256, 128
DONE = 64  # instructions of a queue that may have left the engine and not put their tokens
TOKEN, DRAM, FETCH, BUSY, IDLE = range(5)  # columns of an account

#: An instruction: what it asks for, and (-1: not yet) when it started, freed its engine, and ended.
#: Its waits are ``links[wait_at:signal_at]``, its signals ``links[signal_at:links_end]``.
WORK = np.dtype(
    [
        ("queue", "i8"), ("cost", "f8"), ("dram_bytes", "f8"), ("wait_at", "i8"), ("signal_at", "i8"),
        ("links_end", "i8"), ("next", "i8"), ("start", "f8"), ("released", "f8"), ("finish", "f8"),
    ]
)  # fmt: skip

STATE = np.dtype(
    [
        # the DRAM: bytes a cycle, cycles, bytes a cycle that one client's requests allow
        ("bandwidth", "f8"), ("latency", "f8"), ("request_rate", "f8"),
        # by client: bytes to move as of the last sharing, the most and the actual bytes a cycle
        ("active", "u1", CLIENTS), ("left", "f8", CLIENTS), ("cap", "f8", CLIENTS), ("rate", "f8", CLIENTS),
        ("shared_at", "f8"), ("changed", "u1"),
        # instructions fetched, the first that has not started
        ("fetched", "i8"), ("oldest", "i8"),
        # queues that have instructions; by queue: the next instruction, the one that holds the engine (-1: none)
        ("used", "i8", QUEUES), ("used_count", "i8"), ("head", "i8", QUEUES), ("running", "i8", QUEUES),
        ("until", "f8", CLIENTS),  # when the engine or the fetcher is free, inf where it does nothing
        # by queue: instructions that have left the engine and not put their tokens, a ring
        ("done", "i8", (QUEUES, DONE)), ("done_time", "f8", (QUEUES, DONE)),
        ("done_first", "i8", QUEUES), ("done_count", "i8", QUEUES),
        # tokens put and not taken, by (producer, consumer): when they arrive, a ring
        ("held", "i8", (QUEUES, QUEUES)), ("token_first", "i8", (QUEUES, QUEUES)),
        ("token_time", "f8", (QUEUES, QUEUES, CAPACITY)),
        # by queue: why its next instruction did not start, and when a token on its way to it arrives
        ("cause", "i8", QUEUES), ("wake", "f8", QUEUES),
        ("account", "i8", (QUEUES, 5)),  # by queue: whole cycles in each column
    ]
)  # fmt: skip


def prepare(queue: Array, cost: Array, dram_bytes: Array, wait: Array, signal: Array) -> tuple[Array, Array]:
    """WORK records of instructions, and the queues that their token masks name, one after the other."""
    work = np.zeros(len(queue), WORK)
    work["queue"], work["cost"], work["dram_bytes"] = queue, cost, dram_bytes
    for time in ("start", "released", "finish"):
        work[time] = -1
    work["next"] = -1
    order = np.argsort(queue, kind="stable")
    same = queue[order[1:]] == queue[order[:-1]]
    work["next"][order[:-1][same]] = order[1:][same]
    masks = np.stack([wait, signal], axis=1).astype("<u4").view(np.uint8).reshape(len(queue), 2, 4)
    bits = np.unpackbits(masks, axis=2, bitorder="little").view(np.bool_)
    ends = np.concatenate([[0], np.cumsum(bits.sum(axis=2, dtype=np.int64))])
    work["wait_at"], work["signal_at"], work["links_end"] = ends[:-1:2], ends[1::2], ends[2::2]
    return work, np.flatnonzero(bits) % QUEUES


def fresh(queue: Array, bandwidth: float, latency: float, request_rate: float) -> Array:
    """The STATE before the first event (one record)."""
    state = np.zeros(1, STATE)
    s = state[0]
    s["bandwidth"], s["latency"], s["request_rate"] = bandwidth, latency, request_rate
    used, first = np.unique(queue, return_index=True)
    s["used_count"] = len(used)
    s["used"][: len(used)] = used
    s["head"], s["running"], s["until"], s["wake"] = -1, -1, np.inf, np.inf
    s["head"][used] = first
    return state


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def run(work: Any, links: Any, state: Any) -> None:
    """From event to event until nothing happens any more."""
    s = state[0]
    now = 0.0
    while True:
        settle(work, links, s, now)
        if s.changed:
            share_dram(s, now)
        soon = next_event(s, now)
        if soon == np.inf:
            return
        keep_accounts(s, now, soon)
        now = soon
        release(work, s, now)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def whole(time: float) -> Any:
    """A time in whole cycles, rounded up; what float64 may have added is not a cycle."""
    return np.int64(np.ceil(time - 1e-6))


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def settle(work: Any, links: Any, s: Any, now: float) -> None:
    """All that can happen now: tokens are put, instructions start, the fetcher goes on."""
    progress = True
    while progress:
        progress = False
        fetch(work, s)
        for k in range(s.used_count):
            q = s.used[k]
            if s.done_count[q] > 0 and put_tokens(work, links, s, q, now):
                progress = True
            if s.running[q] < 0 and s.head[q] >= 0 and issue(work, links, s, q, now):
                progress = True


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def put_tokens(work: Any, links: Any, s: Any, q: int, now: float) -> bool:
    """The done instructions of a queue put their tokens, in order, while there is room; did one?"""
    before = s.done_count[q]
    while s.done_count[q] > 0 and s.done_time[q, s.done_first[q]] <= now:
        w = work[s.done[q, s.done_first[q]]]
        for k in range(w.signal_at, w.links_end):
            if s.held[q, links[k]] >= CAPACITY:
                return s.done_count[q] < before
        for k in range(w.signal_at, w.links_end):
            to = links[k]
            at = (s.token_first[q, to] + s.held[q, to]) % CAPACITY
            s.token_time[q, to, at] = now if q // 8 == to // 8 else now + CROSS_CORE_CYCLES
            s.held[q, to] += 1
        w.finish = now
        s.done_first[q] = (s.done_first[q] + 1) % DONE
        s.done_count[q] -= 1
    return s.done_count[q] < before


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def issue(work: Any, links: Any, s: Any, q: int, now: float) -> bool:
    """Start a free engine's next instruction if the fetcher and the tokens allow; was it so?"""
    i = s.head[q]
    w = work[i]
    s.cause[q] = obstacle(w, i, links, s, q, now)
    if s.cause[q] >= 0:
        return False
    for k in range(w.wait_at, w.signal_at):
        s.token_first[links[k], q] = (s.token_first[links[k], q] + 1) % CAPACITY
        s.held[links[k], q] -= 1
    w.start = now
    s.running[q], s.head[q] = i, w.next
    if w.dram_bytes > 0:
        ask_dram(s, q, w.dram_bytes, min(s.request_rate, w.dram_bytes / max(w.cost, 1.0)))
    else:
        s.until[q] = now + w.cost
    return True


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def obstacle(w: Any, i: int, links: Any, s: Any, q: int, now: float) -> int:
    """Why instruction i cannot start on its free engine, -1 if it can."""
    s.wake[q] = np.inf
    if i >= s.fetched:
        return FETCH if s.active[FETCHER] else TOKEN  # the fetcher itself waits for what has not started
    if s.done_count[q] >= (DONE if q % 8 < DMA_ENGINES else 1):
        return TOKEN
    cause = -1
    for k in range(w.wait_at, w.signal_at):
        producer = links[k]
        if s.held[producer, q] == 0:
            if cause != DRAM:
                cause = DRAM if moves_data(s, producer, now) else TOKEN
        elif s.token_time[producer, q, s.token_first[producer, q]] > now:
            s.wake[q] = min(s.wake[q], s.token_time[producer, q, s.token_first[producer, q]])
            cause = max(cause, TOKEN)
    return cause


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def moves_data(s: Any, q: int, now: float) -> bool:
    """Has a queue bytes on their way from or to DRAM?"""
    if s.active[q]:
        return True
    return q % 8 < DMA_ENGINES and s.done_count[q] > 0 and s.done_time[q, s.done_first[q]] > now


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def fetch(work: Any, s: Any) -> None:
    """Start on the next block of instructions, unless it is too far ahead."""
    while s.oldest < len(work) and work[s.oldest].start >= 0:
        s.oldest += 1
    block = min(FETCH_BLOCK, len(work) - s.fetched)
    if s.active[FETCHER] or block == 0 or s.fetched + block - s.oldest > FETCH_AHEAD:
        return
    ask_dram(s, FETCHER, float(block * INSTRUCTION_BYTES), s.request_rate)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def ask_dram(s: Any, client: int, size: float, cap: float) -> None:
    """A client has ``size`` bytes to move, at most ``cap`` a cycle."""
    s.left[client], s.cap[client], s.active[client] = size, cap, 1
    s.changed = 1


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def share_dram(s: Any, now: float) -> None:
    """Solve the shares anew, and with them when each client is through."""
    for client in range(CLIENTS):
        s.left[client] = max(0.0, s.left[client] - s.rate[client] * (now - s.shared_at))
    share(s.active, s.cap, s.bandwidth, s.rate)
    for client in range(CLIENTS):
        if s.active[client]:
            s.until[client] = now + s.left[client] / s.rate[client]
    s.shared_at = now
    s.changed = 0


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def next_event(s: Any, now: float) -> float:
    """When something happens next, inf if nothing does."""
    soon = s.until[FETCHER]
    for k in range(s.used_count):
        q = s.used[k]
        soon = min(soon, s.until[q], s.wake[q])
        if s.done_count[q] > 0 and s.done_time[q, s.done_first[q]] > now:
            soon = min(soon, s.done_time[q, s.done_first[q]])
    return soon


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def keep_accounts(s: Any, now: float, soon: float) -> None:
    """Every queue's whole cycles from now to the next event, by what it does."""
    cycles = whole(soon) - whole(now)
    for k in range(s.used_count):
        q = s.used[k]
        column = BUSY if s.running[q] >= 0 else IDLE if s.head[q] < 0 else s.cause[q]
        s.account[q, column] += cycles


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def release(work: Any, s: Any, now: float) -> None:
    """Engines and the fetcher whose time has come are free; what they did is done, or arrives later."""
    for k in range(s.used_count):
        q = s.used[k]
        if s.until[q] <= now:
            at = (s.done_first[q] + s.done_count[q]) % DONE
            s.done[q, at] = s.running[q]
            s.done_time[q, at] = now + s.latency if s.active[q] else now
            s.done_count[q] += 1
            work[s.running[q]].released = now
            s.running[q] = -1
            leave(s, q)
    if s.until[FETCHER] <= now:
        s.fetched = min(len(work), s.fetched + FETCH_BLOCK)
        leave(s, FETCHER)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def leave(s: Any, client: int) -> None:
    """A client is through, and leaves its share of the DRAM to the others."""
    s.until[client] = np.inf
    if s.active[client]:
        s.active[client], s.rate[client], s.left[client] = 0, 0.0, 0.0
        s.changed = 1
