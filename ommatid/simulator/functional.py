"""The functional executor: every instruction of a program on its memories, bit by bit, without time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ommatid.isa.instructions import BY_OPCODE, INSTRUCTIONS, Memory, view
from ommatid.isa.program import Placed, Program
from ommatid.simulator.kernels import convolution, dma, element, window

Array = np.ndarray[Any, Any]


@dataclass
class Machine:
    """The memories of a chip with a program's constants in DRAM.

    ``dram`` and ``sram`` are uint8, ``acc`` is int32; the last two are per core.
    """

    program: Program
    dram: Array = field(init=False)
    sram: list[Array] = field(init=False)
    acc: list[Array] = field(init=False)

    def __post_init__(self) -> None:
        target = self.program.target
        cores = int(self.program.instructions["core"].max(initial=0)) + 1
        self.dram = np.zeros(self.program.dram_bytes, np.uint8)
        self.dram[: len(self.program.constants)] = self.program.constants
        self.sram = [np.zeros(target.sram_bytes, np.uint8) for _ in range(cores)]
        self.acc = [np.zeros(target.accumulator_bytes // 4, np.int32) for _ in range(cores)]

    def window(self, placed: Placed) -> Array:
        """A tensor's bytes in memory as an array of its memory shape and type, without copying."""
        memory = self.dram if placed.memory == Memory.DRAM else self.sram[0]
        dtype = np.dtype(placed.tensor.quantization.dtype)
        return as_strided(memory[placed.address :].view(dtype), placed.tensor.shape, placed.strides)

    def write(self, placed: Placed, values: Array) -> None:
        """Put a tensor (its memory shape, int8 or uint8) where it lies."""
        self.window(placed)[...] = values

    def read(self, placed: Placed) -> Array:
        """A copy of a tensor (its memory shape, int8 or uint8)."""
        return self.window(placed).copy()

    def run(
        self, begin: int, end: int, order: Iterable[int] | None = None,
        on_ready: Callable[[Machine, int], None] | None = None,
    ) -> None:  # fmt: skip
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


def _conv(r: Array, m: Machine, core: int) -> None:
    target = m.program.target
    convolution.conv(r, m.sram[core], m.acc[core], target.mx_k_bytes, target.mx_channels)


#: Mnemonic: what executes a record of one instruction on a machine's core.
EXECUTE: dict[str, Callable[[Array, Machine, int], None]] = {
    "load": lambda r, m, core: dma.transfer(r, m.dram, m.sram[core]),
    "fill": lambda r, m, core: dma.fill(r, m.sram[core]),
    "store": lambda r, m, core: dma.transfer(r, m.sram[core], m.dram),
    "conv": _conv,
    "dwconv": lambda r, m, core: convolution.dwconv(r, m.sram[core], m.acc[core]),
    "map": lambda r, m, core: element.map_(r, m.sram[core], m.acc[core]),
    "pool": lambda r, m, core: window.pool(r, m.sram[core]),
    "reduce": lambda r, m, core: window.reduce(r, m.sram[core], m.acc[core]),
    "resize": lambda r, m, core: window.resize(r, m.sram[core]),
    "softmax": lambda r, m, core: window.softmax(r, m.sram[core]),
    "lrn": lambda r, m, core: window.lrn(r, m.sram[core]),
    "copy": lambda r, m, core: dma.copy(r, m.sram[core]),
    "end": lambda r, m, core: None,
}
if EXECUTE.keys() != {row.mnemonic for row in INSTRUCTIONS}:
    raise TypeError("functional.EXECUTE and the instruction table differ")
