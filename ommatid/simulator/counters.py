"""Counters: each engine's account of a run, and what two engines did at the same time."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ommatid.isa.instructions import BY_OPCODE, Engine, Memory, view
from ommatid.isa.target import Target

Array = np.ndarray[Any, Any]

#: Why an engine that has instructions left does not get on, in the order of the event loop's columns.
STALLS = ("bank", "bandwidth", "latency", "fetch", *(f"token_{engine.name.lower()}" for engine in Engine))


#: Every counter of an engine: name, unit, meaning; docs/counters.md is made from it.
COUNTERS = (
    ("busy", "cycles", "an instruction holds the engine, and no cause has kept it longer than it takes alone"),
    ("bank", "cycles", "an instruction of mx or vx, a fill or a send waits for banks or ports of the SRAM"),
    ("bandwidth", "cycles", "a DMA holds the engine longer than alone; or the next instruction waits for a token of a "
     "load or store queue that has bursts to be granted"),
    ("latency", "cycles", "the next instruction waits for a token of a load or store queue whose bursts are all under way"),
    ("fetch", "cycles", "the next instruction is not fetched"),
    *((f"token_{e.name.lower()}", "cycles", f"the next instruction waits for a token of {e.name.lower()}, or for room in "
       f"its queue of tokens") for e in Engine),
    ("idle", "cycles", "the queue has no instruction left"),
    ("port", "bytes", "SRAM bytes that the engine's instructions read and write, repetitions counted"),
    ("macs", "MACs", "multiply-accumulates, those on padding included"),
)  # fmt: skip


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


def counters(engine: EngineTime) -> dict[str, int]:
    """An engine's counters by the names of COUNTERS."""
    sums = {
        "busy": engine.busy_cycles,
        "idle": engine.idle_cycles,
        "port": engine.port_bytes,
        "macs": engine.macs,
    }
    return {name: sums[name] if name in sums else engine.stall_cycles[name] for name, _, _ in COUNTERS}


def page() -> str:
    """``docs/counters.md``."""
    rows = "".join(f"| `{name}` | {unit} | {meaning} |\n" for name, unit, meaning in COUNTERS)
    return (
        "# Counters\n\n"
        "Each engine of each core counts these. For every engine, always, all counters in cycles sum to the cycles\n"
        "of the run: busy, stalls by cause, idle. The rules are those of [isa.md](isa.md), *Accounts*; in Python,\n"
        "`ommatid.simulator.counters.counters(engine)`. `make docs` writes this page.\n\n"
        f"| counter | unit | meaning |\n| --- | --- | --- |\n{rows}"
    )


def overlap(a: Array, b: Array) -> int:
    """Total length in which intervals (start, end) of two lists, disjoint within a list, lie over each other."""
    edges = np.concatenate([a, b])
    if not len(edges):
        return 0
    times = np.concatenate([edges[:, 0], edges[:, 1]])
    steps = np.concatenate([np.ones(len(edges), np.int64), -np.ones(len(edges), np.int64)])
    order = np.lexsort((steps, times))
    depth = np.cumsum(steps[order])[:-1]
    return int(np.diff(times[order])[depth == 2].sum())


def port_bytes(stream: Array, target: Target) -> Array:
    """Bytes of SRAM that each instruction reads and writes, repetitions counted (int64)."""
    total = np.zeros(len(stream), np.int64)
    for opcode in np.unique(stream["opcode"]):
        where = np.flatnonzero(stream["opcode"] == opcode)
        row = BY_OPCODE[int(opcode)]
        records = view(stream, row.mnemonic)[where]
        for operand in row.operands:
            if operand.memory == Memory.SRAM:
                run, loops = operand.extent(records, target)
                for count, _ in loops:
                    run = run * count
                total[where] += run
    return total


if __name__ == "__main__":
    Path(sys.argv[1], "counters.md").write_text(page(), encoding="utf-8")
