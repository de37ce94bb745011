"""What the event loop of the timing executor works on: the instructions as WORK, all else that changes as STATE.

A *place* is 8 * core + lane. A queue's place is its bit in the masks of instructions: 8 * core + engine. The lanes
behind the engines are of what else ends on a core: LANDING + 0 and + 1, where the bytes of its loads and of its
stores arrive. The last lanes of cores 0 to 2 are the chip's: FETCHER, CROSSING, tokens between cores, and DRAINED,
words that waited at a port. A set of places is a mask. Times are cycles in float64, inf: never.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ommatid.isa.compiled import inlined
from ommatid.isa.instructions import MOST_CORES, Engine

Array = np.ndarray[Any, Any]

LANES = 8
ENGINES = len(Engine)
PLACES = LANES * MOST_CORES
DMA_ENGINES = 2  # load and store are the first two engines of a core
LANDING = ENGINES
FETCHER, CROSSING, DRAINED = LANES - 1, 2 * LANES - 1, 3 * LANES - 1
DONE = 64  # instructions of a load or store queue that may have left the engine and not put their tokens
STREAMS = 64  # loads and sends at once whose words are looked at where cores share ports; those beyond find them free
#: Instructions whose tokens to other cores are under way: 8 cycles of each queue, and what waited.
UNDER_WAY = 1024

#: Columns of an account; TOKEN + engine of the producer.
BUSY, BANK, BANDWIDTH, LATENCY, FETCH, TOKEN = range(6)
IDLE = TOKEN + ENGINES
COLUMNS = IDLE + 1

#: What may have changed: the DRAM's clients or what they may have; the bytes that queues have under way; whose words
#: wait at ports.
RATES, BYTES, PORTS = 1, 2, 4

#: An instruction, 128 bytes. ``cost`` are its engine cycles by its formula, ``pace`` those alone on an idle chip, its
#: ports, banks and bursts counted; ``words`` the SRAM words that it asks the banks of its core for in a cycle. Of a load
#: or store (``dma``): ``dram_bytes`` that it moves, the most in a cycle (``cap``) and at once by credit (``claim``),
#: cycles for which its port holds it at least and in which the last burst's words are written (``hold``, ``tail``).
#: ``goes_to`` are the ports over which a load or send writes: bit c the load port of core c, MOST_CORES + c its peer
#: port, on which ``hold`` are a send's words. ``hot`` is 1 of an instruction of mx that leaves a bank next to nothing.
#: ``after`` are the cycles from free engine to end,
#: and ``late`` those by which a load's words are written later because others hold their banks. ``next`` is the next
#: of its queue (as many as there are instructions: none). ``takes`` has a one in the lane of each engine of its own core
#: that it waits for, ``others`` are the queues of other cores that it waits for, ``signal`` all that it signals. Times
#: -1: not yet. An instruction of mx or vx needs but the first 64 bytes while the loop runs.
WORK = np.dtype(
    [
        ("takes", "i8"), ("pace", "f8"), ("cost", "f8"), ("words", "f8"), ("start", "f8"), ("released", "f8"),
        ("others", "u4"), ("signal", "u4"), ("next", "u4"), ("dma", "u1"), ("goes_to", "u1"), ("queue", "u1"), ("hot", "u1"),
        ("finish", "f8"), ("dram_bytes", "f8"), ("cap", "f8"), ("claim", "f8"), ("hold", "f8"), ("tail", "f8"),
        ("after", "f8"), ("late", "f8"),
    ]
)  # fmt: skip


@functools.cache
def state_type(cores: int) -> np.dtype[Any]:
    """STATE, everything else that changes, of a chip of so many cores, and what the loop needs of a target.

    It is one record, so that functions pass a pointer; the loop is compiled for its size, so that where there is one
    core nothing is left of what concerns others. By place unless said otherwise.
    """
    places = LANES * cores
    return np.dtype([
        # the target: DRAM bytes a cycle, of a burst; a core's banks, and words a cycle for which they are enough
        ("bandwidth", "f8"), ("burst", "f8"), ("banks", "f8"), ("enough", "f8"),
        # bytes that the DRAM has not used and may still, the most of them; what it leaves in a cycle, since when
        ("credit", "f8"), ("most_credit", "f8"), ("spare", "f8"), ("solved", "f8"),
        # when something ends there
        ("when", "f8", places),
        # instructions fetched; the next block is when all before ``goal`` have started; queues ``behind`` that have not
        ("fetched", "i8"), ("goal", "i8"), ("behind", "i8"),
        # sets of queues: the engine is free and there are instructions left; bytes to move (and FETCHER), of these that
        # ``begun`` since rates were solved; bytes under way; the tokens of an instruction that is done find no room; no
        # more instructions may start because of those that have not put their tokens
        ("idle", "i8"), ("moving", "i8"), ("begun", "i8"), ("landing", "i8"), ("stuck", "i8"), ("blocked", "i8"),
        # ``moving`` and ``landing`` when causes were last looked at; RATES and BYTES: whether they may have changed
        ("was_moving", "i8"), ("was_landing", "i8"), ("changed", "i8"),
        # the next instruction, what it takes (as in WORK); the one that holds the engine; either: none as in WORK
        ("head", "u4", places), ("takes", "i8", places), ("others", "i8", places), ("running", "u4", places),
        # by client: as of ``since`` bytes (DMA) or cycles to go, how many of them pass in a cycle, the most that banks
        # let pass, the most bytes by credit, and when its last burst had moved
        ("left", "f8", places), ("since", "f8", places), ("rate", "f8", places), ("cap", "f8", places),
        ("claim", "f8", places), ("moved", "f8", places),
        # 1 where several cores may write over a port: then the loads and sends that run or whose words wait, how many,
        # by these: their instruction, queue, place in ``done`` (-1: holds the engine), the ports as in WORK, words that
        # came, that wait, a cycle's that arrive and that are written, when done if none waits; since when
        ("shared", "i8"), ("streams", "i8"), ("mover", "i8", STREAMS), ("from_queue", "i8", STREAMS),
        ("place", "i8", STREAMS), ("goes_to", "i8", STREAMS), ("came", "f8", STREAMS), ("waiting", "f8", STREAMS),
        ("arriving", "f8", STREAMS), ("serving", "f8", STREAMS), ("floor", "f8", STREAMS), ("port_since", "f8"),
        # by core: words a cycle that its engines ask for; 1 while its banks do not suffice
        ("words", "f8", cores), ("slow", "i8", cores),
        # instructions that left the engine and have not put their tokens, and when they are done: a ring
        ("done", "u4", (places, DONE)), ("done_time", "f8", (places, DONE)),
        ("done_first", "u4", places), ("done_count", "i8", places), ("done_most", "i8", places),
        # by (core of the producers, consumer): tokens that have arrived, and that are under way, in the producers' lanes
        ("held", "i8", (cores, places)), ("crossing", "i8", (cores, places)),
        # by consumer: the queues whose tokens it was found to lack, but for those under way, and the account's column
        # for it; by producer: the queues found to lack its token, those that have no room for one
        ("missing", "i8", places), ("lacks", "i8", places), ("wanted", "i8", places), ("short", "i8", places),
        # tokens under way, in order: when they arrive, the producer, the set of consumers: a ring
        ("way_time", "f8", UNDER_WAY), ("way_from", "i8", UNDER_WAY), ("way_to", "i8", UNDER_WAY),
        ("way_first", "i8"), ("way_count", "i8"),
        # cycles by column, but for BUSY; besides what runs: the column of the time since the engine was free
        ("account", "f8", (places, COLUMNS)), ("doing", "u4", places), ("doing_since", "f8", places),
    ])  # fmt: skip


def prepare(queue: Array, wait: Array, signal: Array, **columns: Array) -> Array:
    """WORK records of instructions: the place of each one's queue, its masks, the columns of WORK that are given."""
    work = np.zeros(len(queue), WORK)
    core = LANES * (queue // LANES)
    wait = wait.astype(np.int64)
    own = (wait >> core & 255).astype(np.uint8)[:, None]
    work["queue"], work["signal"] = queue, signal
    work["takes"] = np.unpackbits(own, axis=1, bitorder="little").view("<i8")[:, 0]  # bits become bytes
    work["others"] = wait & ~(255 << core)
    work["start"], work["released"], work["finish"], work["next"] = -1, -1, -1, len(work)
    for name, values in columns.items():
        work[name] = values
    work["dma"] = work["dram_bytes"] > 0
    order = np.argsort(queue, kind="stable")
    same = queue[order[1:]] == queue[order[:-1]]
    work["next"][order[:-1][same]] = order[1:][same]
    return work


def fresh(work: Array, bandwidth: float, burst: int, banks: int) -> Array:
    """The STATE before the first event (one record) of these WORK records."""
    used, first = np.unique(work["queue"], return_index=True)
    sends = work["goes_to"].max(initial=0) >= 1 << MOST_CORES
    shared = (np.bitwise_count(work["goes_to"]) > 1).any() or (sends and used.max() >= LANES)
    alone = not shared and (work["signal"] < 1 << LANES).all() and used.max(initial=0) < LANES
    state = np.zeros(1, state_type(1 if alone else MOST_CORES))
    s = state[0]
    s["bandwidth"], s["burst"], s["most_credit"], s["spare"] = bandwidth, burst, burst + bandwidth, bandwidth
    s["banks"], s["enough"], s["shared"] = banks, banks + 1e-9, shared
    s["idle"] = (1 << used.astype(np.int64)).sum()
    s["done_most"] = np.where(np.arange(len(s["when"])) % LANES < DMA_ENGINES, DONE, 1)
    s["head"], s["running"], s["when"], s["doing"] = len(work), len(work), np.inf, FETCH
    s["head"][used], s["takes"][used], s["others"][used] = first, work["takes"][first], work["others"][first]
    return state


@inlined
def core_of(s: Any, q: int) -> int:
    """The core of a queue; where there is but one the compiler sees that."""
    return q // LANES if several(s) else 0


@inlined
def several(s: Any) -> bool:
    """Whether the STATE is of several cores."""
    return len(s.held) > 1
