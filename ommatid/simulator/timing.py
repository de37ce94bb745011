"""The timing executor: cycles of a program, event by event; it touches no tensor data.

The rules are those of ``docs/isa.md``, section "Time"; ``events.py`` carries them out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ommatid.isa.cost import blocks, cost_cycles, dram_bytes, macs
from ommatid.isa.footprint import WORD_BYTES
from ommatid.isa.instructions import (
    BY_MNEMONIC,
    BY_OPCODE,
    INSTRUCTION_BYTES,
    MOST_CORES,
    Engine,
    queues,
    queues_of_mask,
    view,
)
from ommatid.isa.program import Program
from ommatid.isa.target import Target
from ommatid.simulator import events
from ommatid.simulator.counters import STALLS, EngineTime, overlap, port_bytes
from ommatid.simulator.neighbours import ROUNDS, Neighbours
from ommatid.simulator.state import BUSY, IDLE, LANES, PLACES, fresh, prepare
from ommatid.simulator.tokens import CROSS_CORE_CYCLES
from ommatid.simulator.words import bank_words

__all__ = ["EngineTime", "SimulationError", "Timing", "finish_cycles", "simulate"]

Array = np.ndarray[Any, Any]

ENGINES = tuple(engine.name.lower() for engine in Engine)


class SimulationError(RuntimeError):
    """A program that cannot come to its end; the message names the instruction that waits."""


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
        return overlap(self.busy_intervals(a, core), self.busy_intervals(b, core))


def simulate(program: Program, begin: int = 0, end: int | None = None, delays: Array | None = None) -> Timing:
    """Run instructions ``begin`` to ``end`` in time; ``delays`` (cycles, int64) lengthen each instruction.

    Raises:
        SimulationError: the run cannot end: a token never comes, or finds no room.
    """
    target, stream = program.target, program.instructions[begin:end]
    work, state = _in_time(program, begin, stream, delays if delays is None else delays[begin:end])
    start, released, finish = (_whole(work[time]) for time in ("start", "released", "finish"))
    cycles = int(finish.max(initial=0))
    core, engine = np.divmod(work["queue"].astype(np.int64), LANES)
    engines = _accounts(stream, target, work["queue"], state[0], cycles)
    total = int(work["dram_bytes"].sum()) + len(stream) * INSTRUCTION_BYTES
    return Timing(begin, cycles, start, released, finish, engine, core, engines, total)


def finish_cycles(program: Program) -> Array:
    """When each instruction of a program is finished (cycles, int64): all that a compiler asks, without accounts.

    Raises:
        SimulationError: as ``simulate``.
    """
    return _whole(_in_time(program, 0, program.instructions, None)[0]["finish"])


def _in_time(program: Program, begin: int, stream: Array, delays: Array | None) -> tuple[Array, Array]:
    """WORK records of the instructions from ``begin`` on with their times, and the STATE at the end."""
    work = decode(stream, program.target, delays)
    state, neighbours = _run(program, begin, work), Neighbours(work, stream, program.target)
    for _ in range(ROUNDS):
        if not neighbours.slow_down(work):
            break
        state = _run(program, begin, work)
    return work, state


def _run(program: Program, begin: int, work: Array) -> Array:
    """The times of WORK records from the begin of a run, and the STATE at its end."""
    target = program.target
    for time in ("start", "released", "finish"):
        work[time] = -1
    state = fresh(work, target.dram_bytes_per_cycle, target.dram_burst_bytes, target.sram_banks)
    events.run(work, state)
    if (work["finish"] < 0).any():
        raise SimulationError(_stuck(program, begin, work, state[0]))
    return state


def decode(stream: Array, target: Target, delays: Array | None = None) -> Array:
    """WORK records of a stream, for ``events.run``; no data is looked at."""
    cost = cost_cycles(stream, target) + (0 if delays is None else delays)
    after = np.where(_is(stream, "send"), CROSS_CORE_CYCLES, 0)
    words, pace, hot = bank_words(stream, cost, target)
    dma = _dma(stream, cost, target)
    pace, after = np.maximum(pace, dma.pop("pace")), after + dma.pop("after")
    queue = queues(stream)
    return prepare(
        queue, stream["wait"], stream["signal"],
        cost=cost, pace=pace, words=words / np.maximum(pace, 1), hot=hot, after=after, **dma,
    )  # fmt: skip


def _dma(stream: Array, cost: Array, target: Target) -> dict[str, Array]:
    """Columns of WORK for loads and stores, 0 for all else; ``cost`` are their port cycles, one a word. Ports of sends too.

    A load asks for its bursts as fast as the DRAM grants them; a store for each once its words have been read.
    """
    rate, burst = target.dram_bytes_per_cycle, target.dram_burst_bytes
    moved, store = dram_bytes(stream, target), _is(stream, "store")
    dma, words = moved > 0, cost * burst / np.maximum(moved, 1)  # of a burst
    window = target.dram_requests_in_flight * burst
    whole = np.maximum(moved - 1, 0) // window
    alone = whole * max(window / rate, target.dram_latency_cycles) + (moved - whole * window) / rate
    hold = dma * (cost + store)
    claim = dma * (burst + rate) - store * np.ceil(words) * rate  # less what passes until a store asks
    claim = np.maximum(claim, 0)
    pace = dma * np.maximum(np.ceil(alone - claim / rate - 1e-6), hold)
    send = _is(stream, "send")
    hold[send] = blocks(view(stream, "send")[send], "dst", WORD_BYTES)
    return {
        "dram_bytes": moved,
        "cap": moved / np.maximum(alone, 1e-9),
        "claim": claim,
        "hold": hold,
        "pace": pace,
        "tail": dma * ~store * np.minimum(np.ceil(words), cost),
        "after": dma * target.dram_latency_cycles,
        "goes_to": _goes_to(stream),
    }


def _goes_to(stream: Array) -> Array:
    """The mask of ports over which a load or send writes, as in WORK; 0 for all else."""
    masks, load, send = np.zeros(len(stream), np.int64), _is(stream, "load"), _is(stream, "send")
    masks[load] = view(stream, "load")["multicast"][load] | 1 << stream["core"][load]
    masks[send] = 1 << MOST_CORES + view(stream, "send")["peer"][send].astype(np.int64)
    return masks


def _is(stream: Array, mnemonic: str) -> Array:
    return stream["opcode"] == BY_MNEMONIC[mnemonic].opcode


def _whole(times: Array) -> Array:
    """Times in whole cycles, rounded up; what float64 may have added is not a cycle."""
    return np.ceil(times - 1e-6).astype(np.int64)


def _accounts(stream: Array, target: Target, queue: Array, state: Any, cycles: int) -> tuple[EngineTime, ...]:
    moved = np.bincount(queue, port_bytes(stream, target), PLACES)
    work = np.bincount(queue, macs(stream, target), PLACES)
    account = state["account"].copy()
    account[np.arange(len(account)), state["doing"]] += cycles - state["doing_since"]
    account[:, BUSY] = cycles - account[:, BUSY + 1 :].sum(axis=1)
    account = np.diff(np.rint(account.cumsum(axis=1)).astype(np.int64), axis=1, prepend=0)  # sums stay whole
    used = np.bincount(queue, minlength=PLACES) > 0
    rows = []
    for core, engine in np.ndindex(int(queue.max(initial=0)) // LANES + 1, len(ENGINES)):
        q = LANES * core + engine
        busy, *stalls = account[q].tolist() if used[q] else [0] * IDLE + [cycles]
        by_cause = dict(zip(STALLS, stalls[:-1], strict=True))
        rows.append(
            EngineTime(core, ENGINES[engine], busy, by_cause, stalls[-1], int(moved[q]), int(work[q]))
        )
    return tuple(rows)


def _stuck(program: Program, begin: int, work: Array, state: Any) -> str:
    """What the first instruction that did not end is waiting for."""
    i = int(np.flatnonzero(work["finish"] < 0)[0])
    w = work[i]
    name = f"instruction {begin + i} ({BY_OPCODE[int(program.instructions['opcode'][begin + i])].mnemonic})"
    if w["start"] >= 0:
        full = [q for q in queues_of_mask(w["signal"]) if state["short"][w["queue"]] >> q & 1]
        return f"{name} finds no room for its token to {_queue(full[0])}, which takes none"
    held = np.ascontiguousarray(state["held"][:, w["queue"]]).view(np.uint8)
    missing = [q for q in queues_of_mask(program.instructions["wait"][begin + i]) if held[q] == 0]
    return f"{name} waits for a token from {_queue(missing[0])} that never comes"


def _queue(q: int) -> str:
    """A queue in words."""
    return f"{ENGINES[q % LANES]} of core {q // LANES}"
