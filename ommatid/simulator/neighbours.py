"""How much longer instructions of vx, loads, stores and sends take beside those whose words crowd in few banks.

At a bank mx goes first, then vx (docs/isa.md, Banks). A bank that a crowded instruction of theirs keeps busy leaves the others what
its phase leaves, or a word once that has starved: far less than the banks' average. So after a run the banks that each
of these holds are stepped, cycle by cycle, and against them what overlapped it; then the program runs anew with the
times that come of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.footprint import WORD_BYTES
from ommatid.isa.instructions import BY_MNEMONIC, BY_OPCODE, MOST_CORES, view
from ommatid.isa.target import Target
from ommatid.simulator.crowding import BEATS
from ommatid.simulator.sends import SEND, step_sends
from ommatid.simulator.state import LANES
from ommatid.simulator.transfers import transfers
from ommatid.simulator.words import IMAGES, NOBODY, Crowding, crowding_of, startup_cycles

Array = np.ndarray[Any, Any]

VX = (*IMAGES, "copy")  # whose words are looked at
ROUNDS = 8  # runs anew, at most: what one loses changes when the next starts
MOST_CYCLES = 16 * BEATS  # of neighbours that are looked at: a beat that starves takes 16
#: Columns of WORK that are set here.
COLUMNS = ("pace", "late", "hold", "cap", "after")


class Neighbours:
    """A program's instructions that lose cycles to crowded ones; ``work`` are WORK records not yet slowed down."""

    def __init__(self, work: Array, stream: Array, target: Target) -> None:
        self.stream, self.target = stream, target
        self.alone = {name: work[name].copy() for name in COLUMNS}
        self.cost = work["cost"].astype(np.int64)
        self.crowded = work["hot"] > 0
        self.vx, self.load, self.store, self.send = (
            np.isin(stream["opcode"], [BY_MNEMONIC[name].opcode for name in names])
            for names in (VX, ("load",), ("store",), ("send",))
        )
        self.holds = self.crowded | self.vx & (work["pace"] > work["cost"])  # banks that others want
        self.startup = np.zeros(len(stream), np.int64)
        self.groups: dict[str, Crowding] = {}
        self.place = np.zeros(len(stream), np.int64)  # in its group
        self.beside: dict[int, Array] = {}  # of those of vx beside crowded ones of mx
        self.held: dict[bytes, Array] = {}  # by what crowded instructions have in common
        # by instruction of vx: when its neighbours ran, its delay and its banks; by the first of a chain of loads or
        # stores: this and when they began, and when they are through; by the first of sends stepped together: this, SEND
        self.lost: dict[int, tuple[object, Any]] = {}
        self.alike: dict[int, bytes] = {}
        if self.holds.any():
            for name in ("conv", "dwconv", *VX):
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
        self.beside.clear()
        for c in np.unique(core[self.holds]):
            mx = np.flatnonzero(self.crowded & (core == c))
            for i, others in self._overlaps(work, mx, np.flatnonzero(self.vx & (core == c))):
                new["pace"][i] += self.delay(work, i, others)
            holders = self._holders(work, np.flatnonzero(self.holds & (core == c)))[0]
            self.put_off(new, work, holders, np.flatnonzero(self.load & (core == c)))
            self.put_off(new, work, holders, np.flatnonzero(self.store & (core == c)))
        self.delay_sends(new, work)
        told = ("pace", "late", "hold", "after")
        changed = bool(any((np.abs(new[name] - work[name]) >= 1).any() for name in told))
        for name, column in new.items():
            work[name] = column
        return changed

    @staticmethod
    def _overlaps(work: Array, mx: Array, some: Array) -> list[tuple[int, Array]]:
        """Which of ``some`` instructions ran while some of ``mx`` did, and which of these."""
        first = np.searchsorted(np.maximum.accumulate(work["released"][mx]), work["start"][some], "right")
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
            sides = transfer_sides(self.stream[chain], name, side)
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
        lost, self.beside[i] = self.lost[i][1]
        return float(lost)

    def delay_sends(self, new: dict[str, Array], work: Array) -> None:
        """Set when sends are through that overlap or follow one another, where instructions that hold banks meet one."""
        sends, core = np.flatnonzero(self.send), work["queue"] // LANES
        sends = sends[np.argsort(work["start"][sends], kind="stable")]
        start, finish = work["start"][sends], work["finish"][sends]
        begin = np.flatnonzero(start[1:] > np.maximum.accumulate(finish)[:-1]) + 1
        on = [(core[sends] == c) | (view(self.stream[sends], "send")["peer"] == c) for c in range(MOST_CORES)]
        holders = [self._holders(work, np.flatnonzero(self.holds & (core == c))) for c in range(MOST_CORES)]
        for first, end in zip([0, *begin.tolist()], [*begin.tolist(), len(sends)], strict=True):
            others = []
            for here, (some, begins, ends) in zip(on, holders, strict=True):
                meets, span = here[first:end], slice(0, 0)
                if meets.any():
                    since, until = start[first:end][meets].min(), finish[first:end][meets].max()
                    span = slice(np.searchsorted(ends, since, "right"), np.searchsorted(begins, until))
                others.append(some[span])
            if any(map(len, others)):
                self.delay_together(new, work, sends[first:end], others)

    @staticmethod
    def _holders(work: Array, some: Array) -> tuple[Array, Array, Array]:
        """These instructions by their start, this, and when all up to each are through."""
        some = some[np.argsort(work["start"][some], kind="stable")]
        return some, work["start"][some], np.maximum.accumulate(work["released"][some])

    def delay_together(self, new: dict[str, Array], work: Array, sends: Array, others: list[Array]) -> None:
        """That of sends that are stepped together beside ``others``, by core."""
        origin = int(work["start"][sends[0]])
        table = np.zeros(len(sends), SEND)
        table["core"], table["peer"] = work["queue"][sends] // LANES, view(self.stream[sends], "send")["peer"]
        table["begin"], table["beats"] = work["start"][sends] - origin, self.cost[sends]
        table["beat"] = table["released"] = table["through"] = -1
        table["next"], first = len(sends), np.zeros(MOST_CORES, np.int64)
        for c in range(MOST_CORES):
            mine = np.flatnonzero(table["core"] == c)
            first[c] = mine[0] if len(mine) else len(sends)
            table["next"][mine[:-1]] = mine[1:]
            table["follows"][mine[1:]] = work["start"][sends[mine[1:]]] == work["released"][sends[mine[:-1]]]
        until = int(work["finish"][sends].max()) - origin
        met = [self.when(work, int(sends[0]), some, until) for some in others]
        when = table["begin"].tolist(), table["follows"].tolist(), met
        if sends[0] not in self.lost or self.lost[sends[0]][0] != when:
            self.lost[sends[0]] = when, self.stepped(sends, table, first, [self.busy(*each) for each in met])
        table = self.lost[sends[0]][1]
        new["pace"][sends] = table["released"] - table["begin"]
        new["after"][sends] = np.maximum(self.alone["after"][sends], table["through"] - table["released"])
        new["hold"][sends] = 0

    def stepped(self, sends: Array, table: Array, first: Array, busy: list[Array]) -> Array:
        """SEND records once they are through beside others that hold banks."""
        held = np.zeros((MOST_CORES, max(map(len, busy))), np.int64)
        for c, some in enumerate(busy):
            held[c, : len(some)] = some
        records = self.stream[sends]
        sides = transfer_sides(records, "send", "src"), transfer_sides(records, "send", "dst")
        room = max(1, self.target.port_store_bytes_per_cycle // WORD_BYTES)
        step_sends(table, *sides, first, self.target.sram_banks, room, held)
        return table

    @staticmethod
    def when(
        work: Array, i: int, others: Array, most: int = MOST_CYCLES
    ) -> tuple[list[int], list[int], list[int]]:
        """``others``, when they began and when they were through, in so many cycles from the start of instruction i on."""
        start = int(work["start"][i])
        begins = work["start"][others].astype(np.int64) - start
        ends = np.minimum(work["released"][others].astype(np.int64) - start, most)
        return others.tolist(), begins.tolist(), ends.tolist()

    def busy(self, others: list[int], begins: list[int], ends: list[int]) -> Array:
        """The sets of banks that ``others`` held, which ran in these cycles, from cycle 0 on (int64)."""
        busy = np.zeros(max([0, *ends]), np.int64)
        for other, begin, end in zip(others, begins, ends, strict=True):
            if end > max(0, begin):
                own = self.banks(other)
                busy[max(0, begin) : end] |= own[np.arange(max(0, -begin), end - begin) % len(own)]
        return busy

    def beats_lost(self, i: int, busy: Array, held: int) -> tuple[float, Array]:
        """Cycles that instruction i of vx loses where others hold banks, beyond BEATS by ``held``, its own; its ``banks``."""
        beats = int(self.cost[i] - self.startup[i])
        stepped = min(beats, BEATS)
        own = np.zeros(len(busy) + stepped, np.int64)
        took = stepped * self.step(i, others=busy, own=own)
        own = own[: self.startup[i] + int(np.ceil(took))]
        lost = max(0.0, took - (self.alone["pace"][i] - self.startup[i]) * stepped / beats)
        if stepped == beats:
            return lost, own
        beside = busy[:held] > 0
        return float(lost * beside.sum() / max(1, beside[: self.startup[i] + int(took)].sum())), own

    def banks(self, i: int) -> Array:
        """The sets of banks that instruction i of mx holds in each cycle of those that are stepped (int64)."""
        if i in self.beside:
            return self.beside[i]
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


def transfer_sides(stream: Array, mnemonic: str, side: str) -> Array:
    """A side ("src" or "dst") of loads, stores or sends as ``transfers`` takes it."""
    records = view(stream, mnemonic)
    fields = (side, "run", "n1", "n2", "n3", f"{side}_s1", f"{side}_s2", f"{side}_s3")
    return np.stack([records[field].astype(np.int64) for field in fields], axis=1)
