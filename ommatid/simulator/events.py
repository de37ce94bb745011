"""The event loop of the timing executor: queues, tokens, engines, banks, the fetcher and the DRAM in time.

The rules are those of ``docs/isa.md``, section "Time"; where that steps cycle by cycle, this goes from one event
to the next with rates in between: bytes a cycle of the DRAM's clients, beats a cycle of the engines. Times are
cycles in float64. A queue's number is 5 * core + engine; sets of queues are masks of these numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.extending import intrinsic

from ommatid.isa.instructions import INSTRUCTION_BYTES, MOST_CORES, Engine
from ommatid.simulator.rates import PRIORITY, bank_speed, dram_rates, slow_down

Array = np.ndarray[Any, Any]

ENGINES = len(Engine)
QUEUES = ENGINES * MOST_CORES
FETCHER = QUEUES  # the client of the DRAM after those of the queues
CLIENTS = QUEUES + 1
DMA_ENGINES = 2  # load and store are the first two engines of a core
CAPACITY, RING = 15, 16  # tokens held, and the places of their ring
CROSS_CORE_CYCLES = 8
FETCH_BLOCK, FETCH_AHEAD = 32, 256
DONE = 64  # instructions of a queue that may have left the engine and not put their tokens

#: Columns of an account; TOKEN + engine of the producer.
BUSY, BANK, BANDWIDTH, LATENCY, FETCH, TOKEN = range(6)
IDLE = TOKEN + ENGINES
COLUMNS = IDLE + 1

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
compiled: Decorator = numba.njit(cache=True, error_model="numpy")
# An array that is passed to a function costs two atomic operations, more than most functions here do.
inlined: Decorator = numba.njit(cache=True, error_model="numpy", inline="always")

#: An instruction. ``cost`` are its engine cycles by its formula, ``pace`` those alone on an idle chip, its ports,
#: banks and bursts counted; ``words`` the SRAM words that it asks the banks of its core for in a cycle;
#: ``dram_bytes`` what it moves, ``after`` the cycles from free engine to end. Its waits are
#: ``links[wait_at:signal_at]``, its signals ``links[signal_at:links_end]``; times -1: not yet.
WORK = np.dtype(
    [
        ("queue", "i8"), ("cost", "f8"), ("pace", "f8"), ("words", "f8"), ("dram_bytes", "f8"), ("after", "f8"), ("next", "i8"),
        ("wait_at", "i8"), ("signal_at", "i8"), ("links_end", "i8"),
        ("start", "f8"), ("released", "f8"), ("finish", "f8"),
    ]
)  # fmt: skip


#: Everything that changes besides the WORK records, and what the loop needs of a target: one record, so that
#: functions pass a pointer. By queue unless said otherwise.
STATE = np.dtype(
    [
        # the target: DRAM bytes a cycle, banks of a core
        ("bandwidth", "f8"), ("banks", "f8"),
        # instructions fetched; the first that has not started; 1 where the DRAM's shares must be solved anew
        ("fetched", "i8"), ("oldest", "i8"), ("changed", "i8"),
        # the queues that have instructions, and their mask
        ("used_count", "i8"), ("used", "i8", QUEUES), ("everyone", "i8"), ("core", "i8", QUEUES), ("engine", "i8", QUEUES),
        # the clients of the DRAM: load and store queues that have instructions, and the fetcher
        ("client_count", "i8"), ("clients", "i8", CLIENTS),
        # the next instruction (-1: none left), the one that holds the engine (-1: none)
        ("head", "i8", QUEUES), ("running", "i8", QUEUES),
        # by client: free at (inf where it does nothing); as of ``since`` bytes (DMA) or cycles to go, and how many
        # of them pass in a cycle; the most bytes a cycle; 1 while it has bytes to move
        ("until", "f8", CLIENTS), ("left", "f8", CLIENTS), ("since", "f8", CLIENTS), ("rate", "f8", CLIENTS),
        ("cap", "f8", CLIENTS), ("moving", "i8", CLIENTS),
        # by core: words a cycle that its engines ask for; 1 while its banks do not suffice
        ("words", "f8", MOST_CORES), ("slow", "i8", MOST_CORES),
        # instructions that left the engine and have not put their tokens, and when they are done: a ring
        ("done", "i8", (QUEUES, DONE)), ("done_time", "f8", (QUEUES, DONE)),
        ("done_first", "i8", QUEUES), ("done_count", "i8", QUEUES),
        # by (producer, consumer): tokens put and not taken, and when they arrive: a ring
        ("held", "i8", (QUEUES, QUEUES)), ("token_first", "i8", (QUEUES, QUEUES)),
        ("token_time", "f8", (QUEUES, QUEUES, RING)),
        ("wake", "f8", QUEUES),  # when a token on its way arrives
        # cycles by column, the column that runs, and since when
        ("account", "f8", (QUEUES, COLUMNS)), ("doing", "i8", QUEUES), ("doing_since", "f8", QUEUES),
    ]
)  # fmt: skip


def prepare(
    queue: Array, cost: Array, pace: Array, words: Array, dram_bytes: Array, after: Array, stream: Array
) -> tuple[Array, Array]:
    """WORK records of instructions, and the queues that their token masks name, one after the other."""
    work = np.zeros(len(queue), WORK)
    columns = {
        "queue": queue,
        "cost": cost,
        "pace": pace,
        "words": words,
        "dram_bytes": dram_bytes,
        "after": after,
    }
    for name, values in (*columns.items(), ("start", -1), ("released", -1), ("finish", -1), ("next", -1)):
        work[name] = values
    order = np.argsort(queue, kind="stable")
    same = queue[order[1:]] == queue[order[:-1]]
    work["next"][order[:-1][same]] = order[1:][same]
    masks = (
        np.stack([stream["wait"], stream["signal"]], axis=1)
        .astype("<u4")
        .view(np.uint8)
        .reshape(len(queue), 2, 4)
    )
    bits = np.unpackbits(masks, axis=2, bitorder="little").view(np.bool_)
    ends = np.concatenate([[0], np.cumsum(bits.sum(axis=2, dtype=np.int64))])
    work["wait_at"], work["signal_at"], work["links_end"] = ends[:-1:2], ends[1::2], ends[2::2]
    places = np.flatnonzero(bits) % 32  # bit 8 * core + engine
    return work, places // 8 * ENGINES + np.minimum(places % 8, ENGINES - 1)


def fresh(queue: Array, bandwidth: float, banks: int) -> Array:
    """The STATE before the first event (one record)."""
    state = np.zeros(1, STATE)
    s = state[0]
    s["bandwidth"], s["banks"] = bandwidth, banks
    used, first = np.unique(queue, return_index=True)
    s["used_count"], s["everyone"] = len(used), (1 << used).sum()
    s["used"][: len(used)] = used
    s["core"], s["engine"] = np.divmod(np.arange(QUEUES), ENGINES)
    clients = [*used[used % ENGINES < DMA_ENGINES], FETCHER]
    s["client_count"], s["clients"][: len(clients)] = len(clients), clients
    s["head"], s["running"], s["until"], s["wake"], s["doing"] = -1, -1, np.inf, np.inf, FETCH
    s["head"][used] = first
    return state


@intrinsic  # type: ignore[untyped-decorator]
def unowned(typing_context: Any, array: Any) -> Any:
    """The array without its owner, which the caller keeps: counting references at every call took most of the time."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bare = context.make_array(array)(context, builder, args[0])
        bare.meminfo, bare.parent = (part.type(None) for part in (bare.meminfo, bare.parent))
        return bare._getvalue()

    return array(array), codegen


@compiled
def run(work: Any, links: Any, state: Any) -> None:
    """From event to event until nothing happens any more."""
    s, work, links = state[0], unowned(work), unowned(links)
    now, ask = 0.0, s.everyone
    while True:
        settle(work, links, s, now, ask)
        if s.changed:
            dram_rates(s, now)
            s.changed = 0
        now = next_event(s, now)
        if now == np.inf:
            return
        ask = release(work, s, now)


@inlined
def settle(work: Any, links: Any, s: Any, now: float, ask: int) -> None:
    """All that can happen now to the queues in ``ask``: tokens are put, instructions start; the fetcher goes on."""
    while ask & s.everyone:  # a token may go to a queue without instructions
        for k in range(s.used_count):
            q = s.used[k]
            if ask >> q & 1:
                ask &= ~(1 << q)
                if s.done_count[q] > 0:
                    ask |= put_tokens(work, links, s, q, now)
                if s.running[q] < 0 and s.head[q] >= 0:
                    ask |= issue(work, links, s, q, now)
    oldest = s.oldest
    while oldest < len(work) and work[oldest].start >= 0:
        oldest += 1
    s.oldest = oldest
    block = min(FETCH_BLOCK, len(work) - s.fetched)
    if not s.moving[FETCHER] and block > 0 and s.fetched + block - oldest <= FETCH_AHEAD:
        move(s, FETCHER, float(block * INSTRUCTION_BYTES), s.bandwidth, now)


@inlined
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
            at = (s.token_first[q, to] + s.held[q, to]) & (RING - 1)
            s.token_time[q, to, at] = now if s.core[q] == s.core[to] else now + CROSS_CORE_CYCLES
            s.held[q, to] += 1
            ask |= 1 << to
        w.finish = now
        s.done_first[q] = (s.done_first[q] + 1) & (DONE - 1)
        s.done_count[q] -= 1
    return ask


@inlined
def issue(work: Any, links: Any, s: Any, q: int, now: float) -> int:
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
        s.token_first[producer, q] = (s.token_first[producer, q] + 1) & (RING - 1)
        s.held[producer, q] -= 1
        if s.held[producer, q] == CAPACITY - 1:
            ask |= 1 << producer
    w.start = now
    s.running[q], s.head[q] = i, w.next
    change_account(s, q, BUSY, now)
    if w.dram_bytes > 0:
        move(s, q, w.dram_bytes, w.dram_bytes / w.pace, now)
        ask = s.everyone  # those that wait for it now wait for bandwidth
    else:
        s.left[q], s.rate[q], s.since[q], s.until[q] = w.pace, 1.0, now, now + w.pace
    ask_banks(work, s, s.core[q], w.words, now)
    return ask


@inlined
def obstacle(w: Any, i: int, links: Any, s: Any, q: int, now: float) -> int:
    """Why instruction i cannot start on its free engine (a column of the account), -1 if it can."""
    if i >= s.fetched:
        return FETCH
    if s.done_count[q] >= (DONE if s.engine[q] < DMA_ENGINES else 1):
        return full(s, q)
    cause = COLUMNS
    for k in range(w.wait_at, w.signal_at):
        producer = links[k]
        if s.held[producer, q] == 0:
            if s.moving[producer]:
                cause = BANDWIDTH
            elif s.engine[producer] < DMA_ENGINES and s.done_count[producer] > 0:
                cause = min(cause, LATENCY)
            else:
                cause = min(cause, TOKEN + s.engine[producer])
        elif s.token_time[producer, q, s.token_first[producer, q]] > now:
            s.wake[q] = s.token_time[producer, q, s.token_first[producer, q]]
            cause = min(cause, TOKEN + s.engine[producer])
    return cause if cause < COLUMNS else -1


@compiled
def full(s: Any, q: int) -> int:
    """The column of a queue that takes no token of queue q, LATENCY if there is none."""
    for to in s.used:
        if s.held[q, to] >= CAPACITY:
            return TOKEN + s.engine[to]
    return LATENCY


@compiled
def move(s: Any, client: int, size: float, cap: float, now: float) -> None:
    """A client has ``size`` bytes to move, at most ``cap`` a cycle."""
    s.left[client], s.cap[client], s.since[client], s.rate[client] = size, cap, now, 0.0
    s.moving[client] = 1
    s.changed = 1


@inlined
def ask_banks(work: Any, s: Any, core: int, words: float, now: float) -> None:
    """An engine asks a core's banks for ``words`` more a cycle (or less); solve speeds where they do not suffice."""
    if words == 0:
        return
    s.words[core] += words
    over = s.words[core] > s.banks + 1e-9
    if not over and not s.slow[core]:
        return
    s.slow[core] = over
    left = s.banks
    for engine in PRIORITY:
        q = core * ENGINES + engine
        if s.running[q] < 0:
            continue
        w = work[s.running[q]]
        speed = bank_speed(w.words, left)
        left = max(0.0, left - w.words * speed)
        if s.moving[q]:
            s.cap[q] = speed * w.dram_bytes / w.pace
            s.changed = 1
        else:
            slow_down(s, q, speed, now)


@compiled
def change_account(s: Any, q: int, column: int, now: float) -> None:
    """From now on a queue's cycles belong to another column."""
    if s.doing[q] != column:
        s.account[q, s.doing[q]] += now - s.doing_since[q]
        s.doing[q], s.doing_since[q] = column, now


@compiled
def next_event(s: Any, now: float) -> float:
    """When something happens next, inf if nothing does."""
    soon = s.until[FETCHER]
    for k in range(s.used_count):
        q = s.used[k]
        soon = min(soon, s.until[q], s.wake[q])
        if s.done_count[q] > 0 and s.done_time[q, s.done_first[q]] > now:
            soon = min(soon, s.done_time[q, s.done_first[q]])
    return soon


@inlined
def release(work: Any, s: Any, now: float) -> int:
    """Engines and the fetcher whose time has come are free, tokens and data arrive; the queues that may go on."""
    ask = 0
    for k in range(s.used_count):
        q = s.used[k]
        if s.wake[q] <= now:
            s.wake[q] = np.inf
            ask |= 1 << q
        if s.until[q] <= now:
            ask |= s.everyone if s.moving[q] else 1 << q
            free(work, s, q, now)
        if s.done_count[q] > 0 and s.done_time[q, s.done_first[q]] <= now:
            ask |= 1 << q
    if s.until[FETCHER] <= now:
        s.fetched = min(len(work), s.fetched + FETCH_BLOCK)
        leave(s, FETCHER)
        ask = s.everyone
    return ask


@inlined
def free(work: Any, s: Any, q: int, now: float) -> None:
    """An engine's instruction leaves it, and is done now or ``after`` a while."""
    w = work[s.running[q]]
    at = (s.done_first[q] + s.done_count[q]) & (DONE - 1)
    s.done[q, at], s.done_time[q, at] = s.running[q], now + w.after
    s.done_count[q] += 1
    w.released = now
    s.running[q] = -1
    longer = now - w.start - (w.pace if w.dram_bytes > 0 else w.cost)
    change_account(s, q, IDLE, now)
    if longer > 1e-6:
        s.account[q, BUSY] -= longer
        s.account[q, BANDWIDTH if w.dram_bytes > 0 else BANK] += longer
    leave(s, q)
    ask_banks(work, s, s.core[q], -w.words, now)


@compiled
def leave(s: Any, client: int) -> None:
    """A client is through, and leaves its share of the DRAM to the others."""
    s.until[client] = np.inf
    if s.moving[client]:
        s.moving[client] = 0
        s.changed = 1
