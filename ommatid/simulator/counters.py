"""Counters: each engine's account of a run, and what two engines did at the same time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ommatid.isa.instructions import BY_OPCODE, Engine, Memory, view
from ommatid.isa.target import Target

Array = np.ndarray[Any, Any]

#: Why an engine that has instructions left does not get on, in the order of the event loop's columns.
STALLS = ("bank", "bandwidth", "latency", "fetch", *(f"token_{engine.name.lower()}" for engine in Engine))


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
