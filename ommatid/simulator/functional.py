"""The functional executor: every instruction of a program on its memories, bit by bit, without time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ommatid.isa.instructions import BY_OPCODE, INSTRUCTIONS, view
from ommatid.simulator.kernels import channels, convolution, depthwise, dma, element, window
from ommatid.simulator.memories import Memories

Array = np.ndarray[Any, Any]


class Machine(Memories):
    """A chip that executes a program's instructions, one after the other.

    Programs are trusted to stay inside their memories: what comes from outside goes through the verifier.
    """

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
        stream = self.program.instructions
        records = {row.opcode: view(stream, row.mnemonic) for row in INSTRUCTIONS}
        opcodes = stream["opcode"].tolist()
        cores = stream["core"].tolist()
        for i in range(begin, end) if order is None else order:
            opcode = opcodes[i]
            EXECUTE[BY_OPCODE[opcode].mnemonic](records[opcode][i : i + 1], self, cores[i])
            if on_ready is not None:
                on_ready(self, i)


def _load(r: Array, m: Machine, core: int) -> None:
    for to in range(len(m.sram)):
        if to == core or r["multicast"][0] >> to & 1:
            dma.transfer(r, m.dram, m.sram[to])


def _conv(r: Array, m: Machine, core: int) -> None:
    target = m.program.target
    convolution.conv(r, m.sram[core], m.acc[core], target.mx_k_bytes, target.mx_channels)


#: Mnemonic: what executes a record of one instruction on a machine's core.
EXECUTE: dict[str, Callable[[Array, Machine, int], None]] = {
    "load": _load,
    "fill": lambda r, m, core: dma.fill(r, m.sram[core]),
    "store": lambda r, m, core: dma.transfer(r, m.sram[core], m.dram),
    "send": lambda r, m, core: dma.transfer(r, m.sram[core], m.sram[r["peer"][0]]),
    "conv": _conv,
    "dwconv": lambda r, m, core: depthwise.dwconv(r, m.sram[core], m.acc[core]),
    "map": lambda r, m, core: element.map_(r, m.sram[core], m.acc[core]),
    "pool": lambda r, m, core: window.pool(r, m.sram[core]),
    "reduce": lambda r, m, core: channels.reduce(r, m.sram[core], m.acc[core]),
    "resize": lambda r, m, core: window.resize(r, m.sram[core]),
    "softmax": lambda r, m, core: channels.softmax(r, m.sram[core]),
    "lrn": lambda r, m, core: channels.lrn(r, m.sram[core]),
    "copy": lambda r, m, core: dma.copy(r, m.sram[core]),
    "end": lambda r, m, core: None,
}
if EXECUTE.keys() != {row.mnemonic for row in INSTRUCTIONS}:
    raise TypeError("functional.EXECUTE and the instruction table differ")
