"""The timing executor: cycles of a program, event by event; it touches no tensor data.

The rules are those of ``docs/isa.md``, section "Time". A DMA takes part in sharing the DRAM while it has
bytes to move; the shares are solved anew whenever one starts or ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from ommatid.isa.cost import cost_cycles, dram_bytes, macs
from ommatid.isa.footprint import accesses, byte_count
from ommatid.isa.instructions import BY_OPCODE, INSTRUCTION_BYTES, Engine, Memory
from ommatid.isa.program import Program

Array = np.ndarray[Any, Any]

TOKEN_CAPACITY = 15
CROSS_CORE_CYCLES = 8
FETCH_BLOCK = 32
FETCH_AHEAD = 256
STALLS = ("token", "dram", "fetch")
ENGINES = tuple(engine.name.lower() for engine in Engine)


class SimulationError(RuntimeError):
    """A program that cannot come to its end; the message names the instruction that waits."""


@dataclass(frozen=True)
class EngineTime:
    """One engine's account, cycles: ``busy`` + ``stalls`` (by cause) + ``idle`` = the run's cycles."""

    core: int
    engine: str
    busy_cycles: int
    stall_cycles: dict[str, int]
    idle_cycles: int
    port_bytes: int
    macs: int


@dataclass(frozen=True)
class Timing:
    """What a run took. ``start`` and ``finish`` are cycles per instruction, counted from the run's begin."""

    begin: int
    cycles: int
    start: Array
    released: Array  # when the engine was free again (for a DMA before its last bytes arrived)
    finish: Array
    engine: Array
    core: Array
    engines: tuple[EngineTime, ...]
    dram_bytes: int

    def order(self) -> list[int]:
        """Instruction indices in the order in which they started: a legal order of execution."""
        index = np.lexsort((np.arange(len(self.start)), self.start))
        return (index + self.begin).tolist()

    def busy_intervals(self, engine: Engine, core: int = 0) -> Array:
        """(start, end) cycles in which an engine was busy, in order."""
        mine = (self.engine == engine) & (self.core == core)
        return np.stack([self.start[mine], self.released[mine]], axis=1)

    def overlap_cycles(self, a: Engine, b: Engine, core: int = 0) -> int:
        """Cycles in which two engines of a core were both busy."""
        return _overlap(self.busy_intervals(a, core), self.busy_intervals(b, core))


def simulate(program: Program, begin: int = 0, end: int | None = None, delays: Array | None = None) -> Timing:
    """Run instructions ``begin`` to ``end`` in time; ``delays`` (cycles, int64) lengthen each instruction.

    Raises:
        SimulationError: the run cannot end, because a token is missing.
    """
    target = program.target
    stream = program.instructions[begin:end]
    engine = np.array([BY_OPCODE[int(op)].engine for op in stream["opcode"]], np.int64)
    core = stream["core"].astype(np.int64)
    cost = cost_cycles(stream, target)
    if delays is not None:
        cost = cost + delays[begin:end]
    moved = dram_bytes(stream, target)
    capacity_rate = target.dram_requests_in_flight * target.dram_burst_bytes / max(target.dram_latency_cycles, 1)
    start, released, finish, stalls, fetched = _run(
        engine, core, cost, moved, stream["wait"].astype(np.int64), stream["signal"].astype(np.int64),
        target.dram_bytes_per_cycle, float(target.dram_latency_cycles), capacity_rate,
    )  # fmt: skip
    stuck = np.flatnonzero(finish < 0)
    if len(stuck):
        i = int(stuck[0])
        name = BY_OPCODE[int(stream["opcode"][i])].mnemonic
        raise SimulationError(f"instruction {begin + i} ({name}) waits for a token that never comes")
    whole = [np.ceil(t - 1e-6).astype(np.int64) for t in (start, released, finish)]
    cycles = int(whole[2].max(initial=0))
    engines = _accounts(program, stream, engine, core, whole, stalls, cycles)
    total = int(moved.sum() + fetched * INSTRUCTION_BYTES)
    return Timing(begin, cycles, *whole, engine, core, engines, total)


def _accounts(
    program: Program, stream: Array, engine: Array, core: Array, times: list[Array], stalls: Array, cycles: int
) -> tuple[EngineTime, ...]:
    table = accesses(stream, program.target)
    sram = table[table["memory"] == Memory.SRAM]
    port = np.zeros(len(stream), np.int64)
    np.add.at(port, sram["instruction"], byte_count(sram))
    work = macs(stream, program.target)
    rows = []
    for c in range(int(core.max(initial=0)) + 1):
        for e in Engine:
            mine = (engine == e) & (core == c)
            busy = int((times[1][mine] - times[0][mine]).sum())
            waits = np.floor(stalls[mine].sum(axis=0) + 1e-6).astype(np.int64)
            room = cycles - busy
            causes = {}
            for name, value in zip(STALLS, waits.tolist(), strict=True):
                causes[name] = min(int(value), room)
                room -= causes[name]
            rows.append(
                EngineTime(c, ENGINES[e], busy, causes, room, int(port[mine].sum()), int(work[mine].sum()))
            )
    return tuple(rows)


def _overlap(a: Array, b: Array) -> int:
    """Total length in which intervals of two sorted, disjoint lists lie over each other."""
    edges = np.concatenate([a, b])
    if not len(edges):
        return 0
    times = np.concatenate([edges[:, 0], edges[:, 1]])
    steps = np.concatenate([np.ones(len(edges), np.int64), -np.ones(len(edges), np.int64)])
    order = np.lexsort((steps, times))
    depth = np.cumsum(steps[order])[:-1]
    return int(np.diff(times[order])[depth == 2].sum())


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _shares(active: Any, caps: Any, bandwidth: float, rates: Any) -> None:
    """Max-min fair shares of the DRAM: nobody above its cap, what one leaves goes to the others."""
    left = bandwidth
    open_count = 0
    rates[:] = 0.0
    for i in range(len(active)):
        if active[i]:
            open_count += 1
            rates[i] = -1.0
    while open_count > 0:
        share = left / open_count
        settled = False
        for i in range(len(active)):
            if rates[i] < 0 and caps[i] <= share:
                rates[i] = caps[i]
                left -= caps[i]
                open_count -= 1
                settled = True
        if not settled:
            for i in range(len(active)):
                if rates[i] < 0:
                    rates[i] = share
            return


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _run(
    engine: Any, core: Any, cost: Any, moved: Any, wait: Any, signal: Any,
    bandwidth: float, latency: float, request_rate: float,
) -> Any:  # fmt: skip
    """Event loop. Queues are 5 * core + engine (8 bits a core in the masks); the fetcher is the last client."""
    count = len(engine)
    queues = 20
    start, released, finish = np.full(count, -1.0), np.full(count, -1.0), np.full(count, -1.0)
    stalls = np.zeros((count, 3))
    queue = core * 5 + engine
    # each queue's instructions in order
    length = np.zeros(queues, np.int64)
    for i in range(count):
        length[queue[i]] += 1
    offset = np.zeros(queues + 1, np.int64)
    for q in range(queues):
        offset[q + 1] = offset[q] + length[q]
    items, fill = np.empty(count, np.int64), offset[:-1].copy()
    for i in range(count):
        items[fill[queue[i]]] = i
        fill[queue[i]] += 1
    head = offset[:-1].copy()
    running = np.full(queues, -1, np.int64)  # the instruction that holds the engine
    over = np.full(queues, np.inf)  # when a computing engine is free
    left = np.zeros(queues + 1)  # bytes that a DMA (or the fetcher) has to move yet
    floor = np.zeros(queues)  # when the port of a DMA is done at the earliest
    active, caps, rates = np.zeros(queues + 1, np.bool_), np.zeros(queues + 1), np.zeros(queues + 1)
    free_since = np.zeros(queues)
    # tokens: arrival times of those not yet taken, a ring per (producer, consumer)
    token_time = np.zeros((queues, queues, 16))
    token_first, token_count = np.zeros((queues, queues), np.int64), np.zeros((queues, queues), np.int64)
    # instructions that have ended but not signalled: (time, instruction) per queue, a ring
    done_time, done_item = np.zeros((queues, 64)), np.zeros((queues, 64), np.int64)
    done_first, done_count = np.zeros(queues, np.int64), np.zeros(queues, np.int64)
    fetched, oldest = 0, 0
    issued = np.zeros(count, np.bool_)
    now = 0.0
    changed = True
    ended = 0
    while ended < count:
        progress = True
        while progress:
            progress = False
            # results that have arrived put their tokens
            for q in range(queues):
                while done_count[q] > 0 and done_time[q, done_first[q]] <= now + 1e-9:
                    i = done_item[q, done_first[q]]
                    full = False
                    for bit in range(32):
                        if signal[i] >> bit & 1:
                            to = (bit // 8) * 5 + bit % 8
                            if token_count[q, to] >= 15:
                                full = True
                    if full:
                        break
                    for bit in range(32):
                        if signal[i] >> bit & 1:
                            to = (bit // 8) * 5 + bit % 8
                            slot = (token_first[q, to] + token_count[q, to]) % 16
                            token_time[q, to, slot] = now + (8.0 if to // 5 != q // 5 else 0.0)
                            token_count[q, to] += 1
                    finish[i] = now
                    done_first[q] = (done_first[q] + 1) % 64
                    done_count[q] -= 1
                    ended += 1
                    progress = True
            # engines that are free take their next instruction
            for q in range(queues):
                if running[q] >= 0 or head[q] >= offset[q + 1] or done_count[q] >= 64:
                    continue
                i = items[head[q]]
                if i >= fetched:
                    continue
                ready = True
                for bit in range(32):
                    if wait[i] >> bit & 1:
                        source = (bit // 8) * 5 + bit % 8
                        if token_count[source, q] == 0 or token_time[source, q, token_first[source, q]] > now + 1e-9:
                            ready = False
                if not ready or (q % 5 >= 2 and done_count[q] > 0):
                    continue
                for bit in range(32):
                    if wait[i] >> bit & 1:
                        source = (bit // 8) * 5 + bit % 8
                        token_first[source, q] = (token_first[source, q] + 1) % 16
                        token_count[source, q] -= 1
                start[i] = now
                running[q] = i
                issued[i] = True
                head[q] += 1
                progress = True
                if moved[i] > 0:
                    left[q], floor[q], active[q] = float(moved[i]), now + cost[i], True
                    caps[q] = min(request_rate, moved[i] / max(cost[i], 1))
                    over[q] = np.inf
                    changed = True
                else:
                    over[q] = now + cost[i]
            while oldest < count and issued[oldest]:
                oldest += 1
            if not active[queues] and fetched < count and fetched - oldest < 256:
                left[queues] = min(32, count - fetched) * 128.0
                caps[queues] = request_rate
                active[queues] = True
                changed = True
        if changed:
            _shares(active, caps, bandwidth, rates)
            changed = False
        # the next event
        soon = np.inf
        for q in range(queues):
            if running[q] >= 0:
                soon = min(soon, max(now + left[q] / rates[q], floor[q]) if active[q] else over[q])
            if done_count[q] > 0 and done_time[q, done_first[q]] > now:
                soon = min(soon, done_time[q, done_first[q]])
            for p in range(queues):
                if token_count[p, q] > 0 and token_time[p, q, token_first[p, q]] > now:
                    soon = min(soon, token_time[p, q, token_first[p, q]])
        if active[queues]:
            soon = min(soon, now + left[queues] / rates[queues])
        if soon == np.inf:
            break
        step = soon - now
        for q in range(queues):
            if running[q] < 0 and head[q] < offset[q + 1]:
                i = items[head[q]]
                stalls[i, 2 if i >= fetched else 0] += step
        for q in range(queues + 1):
            if active[q]:
                left[q] = max(0.0, left[q] - rates[q] * step)
        now = soon
        for q in range(queues):
            if running[q] < 0:
                continue
            if active[q]:
                if left[q] > 1e-6 or floor[q] > now + 1e-9:
                    continue
                active[q] = False
                changed = True
                arrival = now + latency
            elif over[q] <= now + 1e-9:
                arrival = now
            else:
                continue
            slot = (done_first[q] + done_count[q]) % 64
            done_time[q, slot], done_item[q, slot] = arrival, running[q]
            done_count[q] += 1
            released[running[q]] = now
            running[q] = -1
        if active[queues] and left[queues] <= 1e-6:
            active[queues] = False
            changed = True
            fetched = min(count, fetched + 32)
    return start, released, finish, stalls, fetched
