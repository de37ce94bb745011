"""How much longer instructions of vx take beside those of mx whose words crowd in few banks: for the fast model.

At a bank mx goes before vx (docs/isa.md, Banks). A bank that a crowded instruction of mx keeps busy leaves vx what its
phase leaves, or a word once that has starved: far less than the banks' average. So after a run the banks that each of
these holds are stepped, cycle by cycle, and against them each instruction of vx that overlapped it; then the program
runs anew with the times that come of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.instructions import BY_MNEMONIC, BY_OPCODE, Engine, view
from ommatid.isa.target import Target
from ommatid.simulator.crowding import BEATS
from ommatid.simulator.state import LANES
from ommatid.simulator.words import FREE, IMAGES, crowded, startup_cycles

Array = np.ndarray[Any, Any]

ROUNDS = 8  # runs anew, at most: what one loses changes when the next starts
MOST_CYCLES = 16 * BEATS  # of neighbours that are looked at: a beat that starves takes 16


class Neighbours:
    """A program's instructions of vx and its crowded ones of mx; ``work`` are WORK records not yet slowed down."""

    def __init__(self, work: Array, stream: Array, target: Target) -> None:
        self.stream, self.target = stream, target
        self.alone, self.words = work["pace"].copy(), work["words"].copy()
        self.cost = work["cost"].astype(np.int64)
        self.crowded = (work["queue"] % LANES == Engine.MX) & (work["pace"] > work["cost"])
        self.vx = np.isin(stream["opcode"], [BY_MNEMONIC[name].opcode for name in IMAGES])
        self.held: dict[int, Array] = {}  # by crowded instruction
        # by instruction of vx: when its neighbours ran, and its delay
        self.lost: dict[int, tuple[object, float]] = {}

    def slow_down(self, work: Array) -> bool:
        """Set ``pace`` and ``words`` of vx by what overlapped in the run that ``work`` tells of; whether any changed."""
        if not self.crowded.any():
            return False
        pace, core = self.alone.copy(), work["queue"] // LANES
        for c in np.unique(core[self.crowded]):
            mx, vx = np.flatnonzero(self.crowded & (core == c)), np.flatnonzero(self.vx & (core == c))
            first = np.searchsorted(work["released"][mx], work["start"][vx], "right")
            after = np.searchsorted(work["start"][mx], work["released"][vx])
            for n in np.flatnonzero(first < after):
                pace[vx[n]] += self.delay(work, int(vx[n]), mx[first[n] : after[n]])
        changed = bool((np.abs(pace - work["pace"]) >= 1).any())
        work["pace"], work["words"] = pace, self.words / np.maximum(1, pace / np.maximum(1, self.alone))
        return changed

    def delay(self, work: Array, i: int, others: Array) -> float:
        """Cycles that instruction i of vx loses to ``others`` of mx that overlapped it."""
        start = int(work["start"][i])
        begins = work["start"][others].astype(np.int64) - start
        ends = np.minimum(work["released"][others].astype(np.int64) - start, MOST_CYCLES)
        held = int(work["released"][i]) - start
        when = (others.tolist(), begins.tolist(), ends.tolist(), held if self.cost[i] > BEATS else 0)
        if i not in self.lost or self.lost[i][0] != when:
            self.lost[i] = when, self.stepped_delay(i, *when)
        return self.lost[i][1]

    def stepped_delay(
        self, i: int, others: list[int], begins: list[int], ends: list[int], held: int
    ) -> float:
        """That delay: ``others`` held the banks in these cycles from the start of i on; beyond BEATS by ``held``, its own."""
        startup = self.startup(i)
        busy = np.zeros((max(ends), self.target.sram_banks), np.uint8)
        for other, begin, end in zip(others, begins, ends, strict=True):
            own = self.banks(other)
            busy[max(0, begin) : end] = own[np.arange(max(0, -begin), end - begin) % len(own)]
        beats = int(self.cost[i]) - startup
        stepped = min(beats, BEATS)
        took = stepped * self.step(i, others=busy)
        lost = max(0.0, took - (self.alone[i] - startup) * stepped / beats)
        if stepped == beats:
            return lost
        beside = busy.max(axis=1)[:held]
        return lost * beside.sum() / max(1, beside[: startup + int(took)].sum())

    def banks(self, i: int) -> Array:
        """The banks that instruction i of mx holds in each cycle of those that are stepped, uint8 [cycle, bank]."""
        if i not in self.held:
            startup = self.startup(i)
            beats = self.cost[i] - startup
            cycles = startup + int(np.ceil((self.alone[i] - startup) * min(1.0, BEATS / beats)))
            self.held[i] = np.zeros((cycles, self.target.sram_banks), np.uint8)
            self.step(i, own=self.held[i])
        return self.held[i]

    def step(self, i: int, others: Array = FREE, own: Array = FREE) -> float:
        """How many times longer the beats of instruction i take; ``others`` and ``own`` as in ``crowding.py``."""
        record = view(self.stream, self.mnemonic(i))[i : i + 1]
        beats = self.cost[i : i + 1] - self.startup(i)
        return float(crowded(record, self.mnemonic(i), beats, self.target, others, own)[0])

    def startup(self, i: int) -> int:
        """Cycles before the beats of instruction i."""
        record = view(self.stream, self.mnemonic(i))[i : i + 1]
        return int(startup_cycles(record, self.mnemonic(i), self.target)[0])

    def mnemonic(self, i: int) -> str:
        """What instruction i is."""
        return BY_OPCODE[int(self.stream["opcode"][i])].mnemonic
