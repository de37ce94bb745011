"""The functional executor: every instruction of a program on its memories, bit by bit, without time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ommatid.isa.instructions import BY_OPCODE, Engine
from ommatid.isa.program import Program
from ommatid.simulator import settings
from ommatid.simulator.kernels import multiply, team
from ommatid.simulator.kernels.program import Array, Chip, work
from ommatid.simulator.memories import Memories

#: The plainest way to execute a program: one thread, in list order, and code that every CPU has.
PLAIN: dict[str, Any] = {"threads": 1, "path": "portable"}
WORTH_THREADS = 256  # instructions
NOTHING = np.zeros(0, np.int64)


class Machine(Memories):
    """A chip that executes a program's instructions.

    Programs are trusted to stay inside their memories, and to order by tokens what touches the same bytes: what
    comes from outside goes through the verifier. ``threads`` of the host share a partition's queues (None:
    ``settings.threads()``), and ``path`` of ``kernels.multiply`` multiplies (None: ``settings.kernels()``); the bits
    depend on neither.
    """

    def __init__(self, program: Program, threads: int | None = None, path: str | None = None) -> None:
        super().__init__(program)
        target, path = program.target, path or settings.kernels()
        array = Array(target.mx_k_bytes, target.mx_channels, multiply.address(path), path != "vnni")
        stream = program.instructions.view(np.uint8)
        self._chip = Chip(array, len(self.sram), stream, self.dram, self.all_sram, self.all_acc)
        self._threads = threads or settings.threads()
        self._plans: dict[tuple[int, int], tuple[Any, Any] | None] = {}

    def run(
        self,
        begin: int,
        end: int,
        order: Iterable[int] | None = None,
        on_ready: Callable[[Machine, int], None] | None = None,
    ) -> None:
        """Execute instructions ``begin`` to ``end`` in program order, or those of ``order`` in its order.

        ``on_ready(machine, index)`` is called after each instruction.
        """
        if order is None and on_ready is None and self._plan(begin, end) is not None:
            self._share(*self._plan(begin, end))
            return
        indices = np.arange(begin, end) if order is None else np.fromiter(order, np.int64)
        if on_ready is None:
            work(self._chip, indices, NOTHING, NOTHING, 0)
            return
        for at, index in enumerate(indices.tolist()):
            work(self._chip, indices[at : at + 1], NOTHING, NOTHING, 0)
            on_ready(self, index)

    def _plan(self, begin: int, end: int) -> Any:
        """The queues' lists (see ``kernels.team``) of a partition that it pays to share, else None."""
        if self._threads == 1 or end - begin < WORTH_THREADS:
            return None
        if all((p.begin, p.end) != (begin, end) for p in self.program.partitions):
            return None
        if (begin, end) not in self._plans:
            self._plans[begin, end] = plan(self.program.instructions[begin:end], begin)
        return self._plans[begin, end]

    def _share(self, lists: Any, bounds: Any) -> None:
        state = np.zeros(team.WORDS, np.int64)
        state[team.LEFT] = len(lists)
        first = [int(Engine.MX), int(Engine.VX), int(Engine.LOAD), int(Engine.STORE)]
        helpers = [
            threading.Thread(
                target=work, args=(self._chip, lists, bounds, state, first[i % len(first)]), daemon=True
            )
            for i in range(1, self._threads)
        ]
        for helper in helpers:
            helper.start()
        work(self._chip, lists, bounds, state, first[0])
        for helper in helpers:
            helper.join()


def plan(stream: Any, begin: int) -> tuple[Any, Any] | None:
    """(instructions by queue, each queue's first place and one more) of a stream whose first is number ``begin``.

    None if its own order does not keep its tokens: then threads might wait for ever.
    """
    engine = np.array([BY_OPCODE[o].engine if o in BY_OPCODE else 0 for o in range(256)])
    queue = engine[stream["opcode"]] + 8 * stream["core"].astype(np.int64)
    for producer in np.unique(queue):
        for consumer in np.unique(queue):
            signals = np.flatnonzero((queue == producer) & (stream["signal"] >> consumer & 1 == 1))
            waits = np.flatnonzero((queue == consumer) & (stream["wait"] >> producer & 1 == 1))
            if len(waits) > len(signals) or (signals[: len(waits)] >= waits).any():
                return None
    absent = ~np.bitwise_or.reduce(np.uint32(1) << np.unique(queue).astype(np.uint32))
    if (stream["wait"] & absent).any():
        return None
    lists = np.argsort(queue, kind="stable")
    return lists + begin, np.searchsorted(queue[lists], np.arange(team.QUEUES + 1))
