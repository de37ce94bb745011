"""What the event loop of the timing executor works on: the instructions as WORK, all else that changes as STATE.

A *place* is 8 * core + lane. A queue's place is its bit in the masks of instructions: 8 * core + engine. The lanes
behind the engines are of what else ends on a core: LANDING + 0 and + 1, where the bytes of its loads and of its
stores arrive. The last lanes of cores 0 to 2 are the chip's: FETCHER, CROSSING, tokens between cores, and DRAINED,
words that waited at a load port. A set of places is a mask. Times are cycles in float64, inf: never.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.instructions import MOST_CORES, Engine

Array = np.ndarray[Any, Any]

LANES = 8
ENGINES = len(Engine)
PLACES = LANES * MOST_CORES
DMA_ENGINES = 2  # load and store are the first two engines of a core
LANDING = ENGINES
FETCHER, CROSSING, DRAINED = LANES - 1, 2 * LANES - 1, 3 * LANES - 1
CAPACITY = 15  # tokens from a queue to another
DONE = 64  # instructions of a load or store queue that may have left the engine and not put their tokens
STREAMS = 64  # loads at once whose words are looked at where cores share ports; those beyond find them free
UNDER_WAY = (
    1024  # instructions whose tokens to other cores are under way: 8 cycles of each queue, and what waited
)

#: Columns of an account; TOKEN + engine of the producer.
BUSY, BANK, BANDWIDTH, LATENCY, FETCH, TOKEN = range(6)
IDLE = TOKEN + ENGINES
COLUMNS = IDLE + 1

#: An instruction. ``cost`` are its engine cycles by its formula, ``pace`` those alone on an idle chip, its ports,
#: banks and bursts counted; ``words`` the SRAM words that it asks the banks of its core for in a cycle; ``after`` the
#: cycles from free engine to end. Of a load or store: ``dram_bytes`` that it moves, the most in a cycle (``cap``) and at
#: once by credit (``claim``), cycles for which its port holds it at least and in which the last burst's words are
#: written (``hold``, ``tail``), the set of cores that a load writes (``goes_to``). ``next`` is the next of its queue (-1:
#: none). ``takes`` has a one in the lane of each engine of its own core that it waits for, ``others`` are the queues
#: of other cores that it waits for, ``signal`` all that it signals. Times -1: not yet.
WORK = np.dtype(
    [
        ("queue", "i8"), ("cost", "f8"), ("pace", "f8"), ("words", "f8"), ("dram_bytes", "f8"), ("after", "f8"),
        ("cap", "f8"), ("claim", "f8"), ("hold", "f8"), ("tail", "f8"), ("goes_to", "i8"),
        ("next", "i8"), ("takes", "i8"), ("others", "i8"), ("signal", "i8"),
        ("start", "f8"), ("released", "f8"), ("finish", "f8"),
    ]
)  # fmt: skip

#: Everything that changes besides the WORK records, and what the loop needs of a target: one record, so that
#: functions pass a pointer. By place unless said otherwise.
STATE = np.dtype(
    [
        # the target: DRAM bytes a cycle, banks of a core
        ("bandwidth", "f8"), ("banks", "f8"),
        # bytes that the DRAM has not used and may still, the most of them; what it leaves in a cycle, since when
        ("credit", "f8"), ("most_credit", "f8"), ("spare", "f8"), ("solved", "f8"),
        # the places of the cores that have instructions; when something ends there
        ("places", "i8"), ("when", "f8", PLACES),
        # instructions fetched; the next block is when all before ``goal`` have started; queues ``behind`` that have not
        ("fetched", "i8"), ("goal", "i8"), ("behind", "i8"),
        # sets of queues: the engine is free and there are instructions left; bytes to move (and FETCHER); bytes under
        # way; the tokens of an instruction that is done find no room; some queue takes no more tokens
        ("idle", "i8"), ("moving", "i8"), ("landing", "i8"), ("stuck", "i8"), ("crowded", "i8"),
        # ``moving`` and ``landing`` when causes were last looked at
        ("was_moving", "i8"), ("was_landing", "i8"),
        # 1 where the DRAM's shares must be solved anew
        ("changed", "i8"),
        # the next instruction (-1: none left), the one that holds the engine (-1: none)
        ("head", "i8", PLACES), ("running", "i8", PLACES),
        # by client: as of ``since`` bytes (DMA) or cycles to go, how many of them pass in a cycle, the most bytes, the
        # most by credit, and when its last burst had moved
        ("left", "f8", PLACES), ("since", "f8", PLACES), ("rate", "f8", PLACES), ("cap", "f8", PLACES),
        ("claim", "f8", PLACES), ("moved", "f8", PLACES),
        # 1 where loads go to several cores: then the loads that run or whose words wait, how many, by these: their
        # instruction, queue, place in ``done`` (-1: holds the engine), the cores that they write, words that came, that
        # wait, a cycle's that arrive and that are written, when done if none waits; since when
        ("shared", "i8"), ("streams", "i8"), ("load", "i8", STREAMS), ("from_queue", "i8", STREAMS),
        ("place", "i8", STREAMS), ("goes_to", "i8", STREAMS), ("came", "f8", STREAMS), ("waiting", "f8", STREAMS),
        ("arriving", "f8", STREAMS), ("serving", "f8", STREAMS), ("floor", "f8", STREAMS), ("port_since", "f8"),
        # by core: words a cycle that its engines ask for; 1 while its banks do not suffice
        ("words", "f8", MOST_CORES), ("slow", "i8", MOST_CORES),
        # instructions that left the engine and have not put their tokens, and when they are done: a ring
        ("done", "i8", (PLACES, DONE)), ("done_time", "f8", (PLACES, DONE)),
        ("done_first", "i8", PLACES), ("done_count", "i8", PLACES), ("done_most", "i8", PLACES),
        # by (consumer, core of the producers): tokens that have arrived, and that are under way, in the producers' lanes
        ("held", "i8", (PLACES, MOST_CORES)), ("crossing", "i8", (PLACES, MOST_CORES)),
        # by producer: the queues that take no more of its tokens; by consumer: those whose tokens it was found to lack
        ("full", "i8", PLACES), ("missing", "i8", PLACES),
        # tokens under way, in order: when they arrive, the producer, the set of consumers: a ring
        ("way_time", "f8", UNDER_WAY), ("way_from", "i8", UNDER_WAY), ("way_to", "i8", UNDER_WAY),
        ("way_first", "i8"), ("way_count", "i8"),
        # cycles by column; besides what runs: the column of the time since the engine was free
        ("account", "f8", (PLACES, COLUMNS)), ("doing", "i8", PLACES), ("doing_since", "f8", PLACES),
    ]
)  # fmt: skip


def prepare(queue: Array, wait: Array, signal: Array, **columns: Array) -> Array:
    """WORK records of instructions: the place of each one's queue, its masks, the columns of WORK that are given."""
    work = np.zeros(len(queue), WORK)
    core = LANES * (queue // LANES)
    wait = wait.astype(np.int64)
    own = (wait >> core & 255).astype(np.uint8)[:, None]
    work["queue"], work["signal"] = queue, signal
    work["takes"] = np.unpackbits(own, axis=1, bitorder="little").view("<i8")[:, 0]  # bits become bytes
    work["others"] = wait & ~(255 << core)
    work["start"], work["released"], work["finish"], work["next"] = -1, -1, -1, -1
    for name, values in columns.items():
        work[name] = values
    order = np.argsort(queue, kind="stable")
    same = queue[order[1:]] == queue[order[:-1]]
    work["next"][order[:-1][same]] = order[1:][same]
    return work


def fresh(work: Array, bandwidth: float, burst: int, banks: int) -> Array:
    """The STATE before the first event (one record) of these WORK records."""
    state = np.zeros(1, STATE)
    s = state[0]
    s["bandwidth"], s["banks"], s["most_credit"], s["spare"] = bandwidth, banks, burst + bandwidth, bandwidth
    s["shared"] = (np.bitwise_count(work["goes_to"]) > 1).any()
    used, first = np.unique(work["queue"], return_index=True)
    reached = int(np.bitwise_or.reduce(work["signal"], initial=1)).bit_length() - 1
    reached = max(reached, int(used.max(initial=0)), DRAINED * int(s["shared"]))
    s["places"] = LANES * (reached // LANES + 1)
    s["idle"] = (1 << used).sum()
    s["done_most"] = np.where(np.arange(PLACES) % LANES < DMA_ENGINES, DONE, 1)
    s["head"], s["running"], s["when"], s["doing"] = -1, -1, np.inf, FETCH
    s["head"][used] = first
    return state
