"""The functional executor: every instruction of a program on its memories, bit by bit, without time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np

from ommatid.isa import elements
from ommatid.isa.instructions import BY_OPCODE, Engine, queues, queues_of_mask, view
from ommatid.isa.program import Placed, Program
from ommatid.isa.verifier import verify
from ommatid.simulator import settings
from ommatid.simulator.kernels import multiply, team
from ommatid.simulator.kernels.program import Chip, MacArray, work
from ommatid.simulator.memories import Array, Memories

#: The plainest way to execute a program: one thread, in list order, and code that every CPU has.
PLAIN: dict[str, Any] = {"threads": 1, "path": "portable"}
WORTH_THREADS = 256  # instructions
NOTHING = np.zeros(0, np.int64)
#: Of all machines. Nobody waits for one to come or to go: the operating system may take its time.
HELPERS = ThreadPoolExecutor(team.MOST_PARTS - 1, "ommatid")


class Machine(Memories):
    """A chip that executes a program's instructions.

    Programs are trusted to stay inside their memories: what comes from outside goes through the verifier.
    ``threads`` of the host share a partition (None: ``settings.threads()``), and ``path`` of ``kernels.multiply``
    multiplies (None: ``settings.kernels()``). The bits depend on neither: only what the verifier accepts is shared,
    because its tokens order all that touches the same bytes.
    """

    def __init__(self, program: Program, threads: int | None = None, path: str | None = None) -> None:
        super().__init__(program)
        target, path = program.target, path or settings.kernels()
        kind = multiply.PATHS[path]
        array = MacArray(
            target.mx_k_bytes, target.mx_channels, multiply.address(path), kind.quad_bytes == 8,
            kind.channels.count, kind.quads,
        )  # fmt: skip
        stream, sixteen = program.instructions.view(np.uint8), wide(program.instructions)
        has = sixteen if sixteen.any() else None
        self._chip = Chip(array, len(self.sram), stream, has, self.dram, self.all_sram, self.all_acc)
        self._threads = threads or settings.threads()
        self._orders: dict[tuple[int, int], Array] = {}
        self._plans: dict[tuple[int, int], tuple[Array, Array]] = {}

    def run(
        self,
        begin: int,
        end: int,
        order: Iterable[int] | None = None,
        on_ready: Callable[[Machine, Placed], None] | None = None,
    ) -> None:
        """Execute instructions ``begin`` to ``end`` in an order that tokens allow, or those of ``order`` in its order.

        ``on_ready(machine, placed)`` is called for each tensor of a layer when it is whole.
        """
        if order is None and on_ready is None and self._worth_sharing(begin, end) and self._verified:
            if (begin, end) not in self._plans:
                self._plans[begin, end] = plan(self.program.instructions[begin:end], begin)
            self._share(*self._plans[begin, end])
            return
        if order is None and (begin, end) not in self._orders:
            self._orders[begin, end] = sequence(self.program.instructions[begin:end]) + begin
        indices = self._orders[begin, end] if order is None else np.fromiter(order, np.int64)
        if on_ready is None:
            work(self._chip, indices, NOTHING, NOTHING, 0, 1)
            return
        ready: dict[int, list[Placed]] = defaultdict(list)
        for placed in self.program.placed:
            if placed.layer >= 0:
                ready[placed.ready].append(placed)
        for part in np.split(indices, np.flatnonzero(np.isin(indices, list(ready))) + 1):
            work(self._chip, part, NOTHING, NOTHING, 0, 1)
            for placed in ready.get(int(part[-1]), ()) if part.size else ():
                on_ready(self, placed)

    def _worth_sharing(self, begin: int, end: int) -> bool:
        """Whether these are a partition with work for several threads."""
        known = ((p.begin, p.end) for p in self.program.partitions)
        return self._threads > 1 and end - begin >= WORTH_THREADS and (begin, end) in known

    @cached_property
    def _verified(self) -> bool:
        return not verify(self.program)

    def _share(self, lists: Any, bounds: Any) -> None:
        state = np.zeros(team.WORDS, np.int64)
        threads = min(self._threads, team.MOST_PARTS)
        for me in range(1, threads):
            HELPERS.submit(work, self._chip, lists, bounds, state, me, threads)
        work(
            self._chip, lists, bounds, state, 0, threads
        )  # until all is done: who comes later finds that, and goes


def wide(stream: Array) -> Array:
    """Which instructions have 16-bit elements, or accumulators for them (bool)."""
    found = np.zeros(len(stream), bool)
    for opcode in np.unique(stream["opcode"]):
        row, where = BY_OPCODE[int(opcode)], np.flatnonzero(stream["opcode"] == opcode)
        records, names = view(stream, row.mnemonic)[where], {field.name for field in row.fields}
        found[where] = elements.wide(records)
        for name, size in (("acc_bytes", 8), ("element_bytes", 2)):
            found[where] |= name in names and records[name] == size
    return found


def plan(stream: Array, begin: int) -> tuple[Array, Array]:
    """(instructions by queue, the plan of team.py) of a stream whose first instruction is number ``begin``.

    Of a core's queues those come first whose work another engine left in the cache; loads only fill the gaps.
    """
    queue = queues(stream)
    lists = np.argsort(queue, kind="stable")
    bounds = np.searchsorted(queue[lists], np.arange(team.QUEUES + 1))
    order = (Engine.VX, Engine.MX, Engine.LOAD, Engine.STORE, Engine.CTL)
    used = [q for core in range(0, team.QUEUES, 8) for q in (core + engine for engine in order) if q in queue]
    return lists + begin, np.concatenate([bounds, used])


def sequence(stream: Array) -> Array:
    """The places of a stream in an order that its tokens allow: its own, if that is one, or if there is none."""
    queue, listed = queues(stream), np.arange(len(stream))
    if follows(stream, queue):
        return listed
    waits, signals = ([queues_of_mask(mask) for mask in stream[name]] for name in ("wait", "signal"))
    left = {int(q): np.flatnonzero(queue == q)[::-1].tolist() for q in np.unique(queue)}
    tokens: Counter[tuple[int, int]] = Counter()
    found: list[int] = []
    before = -1
    while before < len(found):
        before = len(found)
        for q, places in left.items():
            while places and all(tokens[producer, q] for producer in waits[places[-1]]):
                tokens.subtract((producer, q) for producer in waits[places[-1]])
                tokens.update((q, consumer) for consumer in signals[places[-1]])
                found.append(places.pop())
    return np.array(found) if before == len(stream) else listed


def follows(stream: Array, queue: Array) -> bool:
    """Whether, one after the other, each instruction of a stream finds its tokens."""
    waits, signals = stream["wait"], stream["signal"]
    for consumer in np.unique(queue):
        mine = waits[queue == consumer]
        for producer in queues_of_mask(int(np.bitwise_or.reduce(mine))):
            signalled = np.flatnonzero((queue == producer) & (signals >> consumer & 1 == 1))
            waited = np.flatnonzero((queue == consumer) & (waits >> producer & 1 == 1))
            if len(waited) > len(signalled) or (signalled[: len(waited)] >= waited).any():
                return False
    return True
