"""The functional executor: every instruction of a program on its memories, bit by bit, without time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ommatid.isa.program import Program
from ommatid.simulator import settings
from ommatid.simulator.kernels import multiply, team
from ommatid.simulator.kernels.program import Array, Chip, work
from ommatid.simulator.memories import Memories

#: The plainest way to execute a program: one thread, and code that every CPU has.
PLAIN: dict[str, Any] = {"threads": 1, "path": "portable"}


class Machine(Memories):
    """A chip that executes a program's instructions, one after the other.

    Programs are trusted to stay inside their memories: what comes from outside goes through the verifier.
    ``threads`` of the host share the work (None: ``settings.threads()``), and ``path`` of ``kernels.multiply``
    multiplies (None: ``settings.kernels()``); the bits depend on neither.
    """

    def __init__(self, program: Program, threads: int | None = None, path: str | None = None) -> None:
        super().__init__(program)
        target, path = program.target, path or settings.kernels()
        array = Array(target.mx_k_bytes, target.mx_channels, multiply.address(path), path != "vnni")
        stream = program.instructions.view(np.uint8)
        self._chip = Chip(array, len(self.sram), stream, self.dram, self.all_sram, self.all_acc)
        self._threads = threads or settings.threads()

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
        indices = np.arange(begin, end) if order is None else np.fromiter(order, np.int64)
        if on_ready is None:
            self._execute(indices)
            return
        for at, index in enumerate(indices.tolist()):
            self._execute(indices[at : at + 1])
            on_ready(self, index)

    def _execute(self, indices: Any) -> None:
        state, count = np.zeros(team.WORDS, np.int64), self._threads if len(indices) > 1 else 1
        job = (self._chip, indices, state, count)
        helpers = [threading.Thread(target=work, args=(*job, False), daemon=True) for _ in range(count - 1)]
        for helper in helpers:
            helper.start()
        work(*job, True)
        for helper in helpers:
            helper.join()
