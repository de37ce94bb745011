"""Programs that are legal as they grow: tokens for any number of cores, from the words that instructions touch.

A plain twin of ``ommatid.compiler.tokens`` for tests: instruction by instruction, with NumPy over word sets.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from ommatid.isa.footprint import WORD_BYTES, accesses
from ommatid.isa.instructions import BY_MNEMONIC, MOST_CORES, Engine, Memory, Mode
from tests.isa.builder import Builder

Array = np.ndarray[Any, Any]

QUEUES = len(Engine) * MOST_CORES
CAPACITY = 15


class Weave:
    """Appends instructions to a builder, each with the tokens that it needs, and some that it does not.

    ``extra`` is the chance of a token that no conflict asks for, by instruction and producing queue; ``lag`` the
    chance that such a token, or a needed one, is of an instruction as early (late) as the rules allow.
    """

    def __init__(self, builder: Builder, rng: Any, extra: float = 0.0, lag: float = 0.5) -> None:
        self.builder, self.rng, self.extra, self.lag = builder, rng, extra, lag
        self.queue: list[int] = []  # of each instruction: 5 * core + engine
        self.known: list[Array] = []  # of each: by queue, the latest that has ended when it starts
        self.members: defaultdict[int, list[int]] = defaultdict(list)  # by queue
        self.edges: defaultdict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        self.writer: dict[tuple[int, int], Array] = {}  # by memory and core: last writer of each word
        self.reader: dict[tuple[int, int], Array] = {}  # and of each queue the last reader since

    def __len__(self) -> int:
        return len(self.queue)

    def written(self, core: int, first: int, last: int, memory: Memory = Memory.SRAM) -> bool:
        """Whether all words of these bytes have been written."""
        writer = self._words(memory, core)[0][first // WORD_BYTES : (last - 1) // WORD_BYTES + 1]
        return bool((writer >= 0).all())

    def append(self, mnemonic: str, core: int = 0, after: tuple[int, ...] = (), **fields: Any) -> int:
        """Append an instruction, ordered after the instructions ``after`` too; its index.

        -1 if no token can make it legal here: it would overtake an earlier one of its own queue, or a token would
        have no room.
        """
        builder, i = self.builder, len(self.queue)
        builder.emit(mnemonic, core=core, **fields)
        engine = BY_MNEMONIC[mnemonic].engine
        mine = len(Engine) * core + engine
        touched = self._touched(builder.records[-1])
        need = self._needs(touched, mine, mnemonic)
        for j in after:
            need[self.queue[j]] = max(need[self.queue[j]], j)
        known = np.full(QUEUES, -1, np.int64)
        if self.members[mine]:
            known = self.known[self.members[mine][-1]].copy()
            if engine not in (Engine.LOAD, Engine.STORE):
                known[mine] = self.members[mine][-1]
        edges = self._edges(need, known, mine, i)
        if edges is None or need[mine] > known[mine]:
            builder.records.pop()
            return -1
        self._commit(edges, touched, known, mine, i)
        return i

    def finish(self) -> int:
        """Append an ``end`` that waits for all."""
        extra, self.extra = self.extra, 0.0
        last = tuple(members[-1] for q, members in self.members.items() if members)
        i = self.append("end", after=last)
        self.extra = extra
        return i

    def _words(self, memory: int, core: int) -> tuple[Array, Array]:
        key = (int(memory), core)
        if key not in self.writer:
            target = self.builder.target
            size = (self.builder.dram_bytes, target.sram_bytes, target.accumulator_bytes)[memory]
            self.writer[key] = np.full(size // WORD_BYTES + 1, -1, np.int32)
            self.reader[key] = np.full((size // WORD_BYTES + 1, QUEUES), -1, np.int32)
        return self.writer[key], self.reader[key]

    def _touched(self, record: Array) -> list[tuple[int, int, int, Array]]:
        """(memory, core, mode, words) of each operand."""
        found = []
        for access in accesses(record, self.builder.target):
            at = np.array([access["address"]], np.int64)
            for n, s in zip(access["n"].tolist(), access["s"].tolist(), strict=True):
                at = (at[:, None] + np.arange(n) * s).ravel()
            first, last = at // WORD_BYTES, (at + access["run"] - 1) // WORD_BYTES
            assert at.min() >= 0, "an operand lies before its memory"
            steps = np.arange(int((last - first).max()) + 1)
            grid = first[:, None] + steps
            words = np.unique(grid[grid <= last[:, None]])
            found.append((int(access["memory"]), int(access["core"]), int(access["mode"]), words))
        return found

    def _needs(self, touched: list[tuple[int, int, int, Array]], mine: int, mnemonic: str) -> Array:
        """By queue, the latest instruction that must have ended before this one may start.

        Of its own queue, those whose words it might overtake: a load may follow a load.
        """
        need = np.full(QUEUES, -1, np.int64)
        queue = np.array([*self.queue, 0])
        for memory, core, mode, words in touched:
            writer, reader = (of[words] for of in self._words(memory, core))
            by_queue = np.where(queue[writer][:, None] == np.arange(QUEUES), writer[:, None], -1).max(axis=0)
            ours = np.unique(writer[(queue[writer] == mine) & (writer >= 0)])
            if mnemonic == "load" and all(self._is("load", j) for j in ours):
                by_queue[mine] = -1
            need = np.maximum(need, by_queue)
            if mode != Mode.READ:
                readers = reader.max(axis=0)
                readers[mine] = -1
                need = np.maximum(need, readers)
        return need

    def _is(self, mnemonic: str, i: int) -> bool:
        return int(self.builder.records[i]["opcode"][0]) == BY_MNEMONIC[mnemonic].opcode

    def _edges(self, need: Array, known: Array, mine: int, i: int) -> list[tuple[int, int]] | None:
        """Tokens (producer, queue of it) for instruction i, and in ``known`` what they say; None if none will do."""
        edges = []
        order = self.rng.permutation(QUEUES) if self.rng.random() < 0.2 else np.argsort(-need, kind="stable")
        for q in order.tolist():
            late = int(need[q])
            if q == mine or not self.members[q]:
                continue
            if late <= known[q]:
                if self.rng.random() >= self.extra:
                    continue
                late = self._any(q, mine)
            j = self._room(q, mine, late)
            if j < 0 and late > known[q]:
                return None
            if j >= 0:
                edges.append((j, q))
                known[:] = np.maximum(known, self.known[j])
                known[q] = max(known[q], j)
        return edges

    def _any(self, q: int, mine: int) -> int:
        """An instruction of queue q whose token to ``mine`` may still be given, -1 if there is none."""
        edges = self.edges[q, mine]
        free = [j for j in self.members[q] if not edges or j > edges[-1][0]]
        if not free:
            return -1
        return free[0] if self.rng.random() < self.lag else int(self.rng.choice(free))

    def _room(self, q: int, mine: int, j: int) -> int:
        """``j``, or -1 if at its place in the program the token's counter is full or its turn is over."""
        edges = self.edges[q, mine]
        if j < 0 or (edges and j <= edges[-1][0]):
            return -1
        held = sum(taken > j for _, taken in edges)
        return j if held < CAPACITY else -1

    def _commit(
        self,
        edges: list[tuple[int, int]],
        touched: list[tuple[int, int, int, Array]],
        known: Array,
        mine: int,
        i: int,
    ) -> None:
        records = self.builder.records
        for j, q in edges:
            self.edges[q, mine].append((j, i))
            records[j]["signal"] |= np.uint32(1 << _bit(mine))
            records[i]["wait"] |= np.uint32(1 << _bit(q))
        for memory, core, mode, words in touched:
            writer, reader = self._words(memory, core)
            if mode != Mode.READ:
                writer[words] = i
                reader[words] = -1
            else:
                reader[words, mine] = i
        self.queue.append(mine)
        self.known.append(known)
        self.members[mine].append(i)


def _bit(queue: int) -> int:
    """The bit of a queue in the masks."""
    return 8 * (queue // len(Engine)) + queue % len(Engine)
