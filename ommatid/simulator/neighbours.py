"""How much longer instructions of vx, loads and stores take beside those of mx whose words crowd in few banks.

At a bank mx goes first (docs/isa.md, Banks). A bank that a crowded instruction of mx keeps busy leaves the others what
its phase leaves, or a word once that has starved: far less than the banks' average. So after a run the banks that each
of these holds are stepped, cycle by cycle, and against them what overlapped it; then the program runs anew with the
times that come of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.footprint import WORD_BYTES
from ommatid.isa.instructions import BY_MNEMONIC, BY_OPCODE, view
from ommatid.isa.target import Target
from ommatid.simulator.crowding import BEATS
from ommatid.simulator.state import LANES
from ommatid.simulator.transfers import transfers
from ommatid.simulator.words import IMAGES, NOBODY, Crowding, crowding_of, startup_cycles

Array = np.ndarray[Any, Any]

ROUNDS = 8  # runs anew, at most: what one loses changes when the next starts
MOST_CYCLES = 16 * BEATS  # of neighbours that are looked at: a beat that starves takes 16
#: Columns of WORK that are set here.
COLUMNS = ("pace", "late", "hold", "cap")


class Neighbours:
    """A program's instructions that lose cycles to crowded ones of mx; ``work`` are WORK records not yet slowed down."""

    def __init__(self, work: Array, stream: Array, target: Target) -> None:
        self.stream, self.target = stream, target
        self.alone = {name: work[name].copy() for name in COLUMNS}
        self.cost = work["cost"].astype(np.int64)
        self.crowded = work["hot"] > 0
        self.vx, self.load, self.store = (
            np.isin(stream["opcode"], [BY_MNEMONIC[name].opcode for name in names])
            for names in (IMAGES, ("load",), ("store",))
        )
        self.holds = self.crowded | self.vx & (
            work["pace"] > work["cost"]
        )  # banks that loads and stores want
        self.startup = np.zeros(len(stream), np.int64)
        self.groups: dict[str, Crowding] = {}
        self.place = np.zeros(len(stream), np.int64)  # in its group
        self.held: dict[bytes, Array] = {}  # by what crowded instructions have in common
        # by instruction of vx: when its neighbours ran, and its delay; by the first of a chain of loads or stores: this
        # and when they began, and when they are through
        self.lost: dict[int, tuple[object, Any]] = {}
        self.alike: dict[int, bytes] = {}
        if self.holds.any():
            for name in ("conv", "dwconv", *IMAGES):
                self._group(name)
                self.alike |= self._alike(name)

    def _group(self, name: str) -> None:
        mine = np.flatnonzero(self.stream["opcode"] == BY_MNEMONIC[name].opcode)
        records = view(self.stream, name)[mine]
        self.startup[mine] = startup_cycles(records, name, self.target)
        self.place[mine] = np.arange(len(mine))
        group = crowding_of(records, name, self.cost[mine] - self.startup[mine], self.target)
        if group is not None:
            self.groups[name] = group

    def _alike(self, name: str) -> dict[int, bytes]:
        """By crowded instruction, what those have in common that hold the same banks: these repeat after so many bytes."""
        mine = np.flatnonzero(self.holds & (self.stream["opcode"] == BY_MNEMONIC[name].opcode))
        records = view(self.stream, name)[mine].copy()
        for field in ("core", "wait", "signal", "acc", "acc_pixel", "accumulate"):
            if field in records.dtype.names:
                records[field] = 0
        for field in ("src", "weights", "operand", "dst"):
            if field in records.dtype.names:
                records[field] %= WORD_BYTES * self.target.sram_banks**3
        return {int(i): record.tobytes() for i, record in zip(mine, records, strict=True)}

    def slow_down(self, work: Array) -> bool:
        """Set the columns of WORK by what overlapped in the run that ``work`` tells of; whether any changed."""
        if not self.holds.any():
            return False
        new, core = {name: column.copy() for name, column in self.alone.items()}, work["queue"] // LANES
        for c in np.unique(core[self.holds]):
            mx = np.flatnonzero(self.crowded & (core == c))
            for i, others in self._overlaps(work, mx, np.flatnonzero(self.vx & (core == c))):
                new["pace"][i] += self.delay(work, i, others)
            holders = np.flatnonzero(self.holds & (core == c))
            holders = holders[np.argsort(work["start"][holders], kind="stable")]
            self.put_off(new, work, holders, np.flatnonzero(self.load & (core == c)))
            self.put_off(new, work, holders, np.flatnonzero(self.store & (core == c)))
        changed = bool(any((np.abs(new[name] - work[name]) >= 1).any() for name in ("pace", "late", "hold")))
        for name, column in new.items():
            work[name] = column
        return changed

    @staticmethod
    def _overlaps(work: Array, mx: Array, some: Array) -> list[tuple[int, Array]]:
        """Which of ``some`` instructions ran while some of ``mx`` did, and which of these."""
        first = np.searchsorted(work["released"][mx], work["start"][some], "right")
        after = np.searchsorted(work["start"][mx], work["released"][some])
        return [(int(some[n]), mx[first[n] : after[n]]) for n in np.flatnonzero(first < after)]

    def put_off(self, new: dict[str, Array], work: Array, holders: Array, dma: Array) -> None:
        """Set by how many cycles the words of a queue's loads or stores come later, by ``holders`` and by those of earlier ones."""
        start, finish = work["start"][dma], work["finish"][dma]
        latency, load = work["after"][dma], self.load[dma]
        words = np.where(load, finish - work["tail"][dma] - 2, finish - latency)  # the last of them, nearly
        behind = np.append(start + load * (1 + latency), np.inf)[1:] < words
        begin = np.append(0, np.flatnonzero(~behind[:-1]) + 1)[: len(dma)]  # of chains, and their ends
        end = np.append(begin[1:], len(dma))[: len(begin)]
        last = np.maximum.reduceat(finish, begin) if len(dma) else finish
        first = np.searchsorted(np.maximum.accumulate(work["released"][holders]), start[begin], "right")
        after = np.searchsorted(work["start"][holders], last)
        for n in np.flatnonzero(first < after):
            self.put_off_chain(new, work, dma[begin[n] : end[n]], holders[first[n] : after[n]])

    def put_off_chain(self, new: dict[str, Array], work: Array, chain: Array, others: Array) -> None:
        """That of loads or stores of which each begins before the words of the one before are through."""
        store = bool(self.store[chain[0]])
        name, side, port = ("store", "src", "store") if store else ("load", "dst", "load")
        room = max(1, getattr(self.target, f"port_{port}_bytes_per_cycle") // WORD_BYTES)
        start, moved = work["start"][chain].astype(np.int64), work["dram_bytes"][chain]
        begin = start - start[0] + (0 if store else work["after"][chain].astype(np.int64))
        bursts = (moved / self.target.dram_burst_bytes).astype(np.int64)
        held, cap = work["released"][chain] - start, self.alone["cap"][chain]
        each = np.where(held > self.alone["hold"][chain], held, moved / cap) / bursts * (not store)
        when = *self.when(work, int(chain[0]), others), begin.tolist(), each.tolist()
        if chain[0] not in self.lost or self.lost[chain[0]][0] != when:
            records = view(self.stream, name)[chain]
            fields = (side, "run", "n1", "n2", "n3", f"{side}_s1", f"{side}_s2", f"{side}_s3")
            sides = np.stack([records[field].astype(np.int64) for field in fields], axis=1)
            busy = self.busy(*when[:3])
            through = transfers(sides, begin, bursts, each, room, self.target.sram_banks, busy)
            self.lost[chain[0]] = when, through
        through = self.lost[chain[0]][1]
        alone = np.maximum(
            begin + np.ceil(each) + self.cost[chain] / room, begin + bursts * each + work["tail"][chain]
        )
        lost = np.maximum(0, through - np.ceil(alone))
        if store:
            hold = self.alone["hold"][chain] + lost
            new["hold"][chain], new["cap"][chain] = hold, np.minimum(cap, moved / hold)
            new["pace"][chain] = np.maximum(self.alone["pace"][chain], hold)
        else:
            new["late"][chain] = lost

    def delay(self, work: Array, i: int, others: Array) -> float:
        """Cycles that instruction i of vx loses to ``others`` of mx that overlapped it."""
        held = int(work["released"][i]) - int(work["start"][i])
        when = *self.when(work, i, others), held if self.cost[i] > BEATS else 0
        if i not in self.lost or self.lost[i][0] != when:
            self.lost[i] = when, self.beats_lost(i, self.busy(*when[:3]), held)
        return float(self.lost[i][1])

    @staticmethod
    def when(work: Array, i: int, others: Array) -> tuple[list[int], list[int], list[int]]:
        """``others``, when they began and when they were through, from the start of instruction i on."""
        start = int(work["start"][i])
        begins = work["start"][others].astype(np.int64) - start
        ends = np.minimum(work["released"][others].astype(np.int64) - start, MOST_CYCLES)
        return others.tolist(), begins.tolist(), ends.tolist()

    def busy(self, others: list[int], begins: list[int], ends: list[int]) -> Array:
        """The sets of banks that ``others`` held, which ran in these cycles, from cycle 0 on (int64)."""
        busy = np.zeros(max(0, *ends), np.int64)
        for other, begin, end in zip(others, begins, ends, strict=True):
            if end > max(0, begin):
                own = self.banks(other)
                busy[max(0, begin) : end] |= own[np.arange(max(0, -begin), end - begin) % len(own)]
        return busy

    def beats_lost(self, i: int, busy: Array, held: int) -> float:
        """Cycles that instruction i of vx loses where others hold banks; beyond BEATS by ``held``, its own."""
        beats = int(self.cost[i] - self.startup[i])
        stepped = min(beats, BEATS)
        took = stepped * self.step(i, others=busy)
        lost = max(0.0, took - (self.alone["pace"][i] - self.startup[i]) * stepped / beats)
        if stepped == beats:
            return lost
        beside = busy[:held] > 0
        return float(lost * beside.sum() / max(1, beside[: self.startup[i] + int(took)].sum()))

    def banks(self, i: int) -> Array:
        """The sets of banks that instruction i of mx holds in each cycle of those that are stepped (int64)."""
        if (alike := self.alike[i]) not in self.held:
            startup = int(self.startup[i])
            beats = self.cost[i] - startup
            cycles = startup + int(np.ceil((self.alone["pace"][i] - startup) * min(1.0, BEATS / beats)))
            self.held[alike] = np.zeros(cycles, np.int64)
            self.step(i, own=self.held[alike])
        return self.held[alike]

    def step(self, i: int, others: Array = NOBODY, own: Array = NOBODY) -> float:
        """How many times longer the beats of instruction i take; ``others`` and ``own`` as in ``crowding.py``."""
        group = self.groups[BY_OPCODE[int(self.stream["opcode"][i])].mnemonic]
        place = int(self.place[i])
        return float(group.factors(slice(place, place + 1), others, own)[0])
