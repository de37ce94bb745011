"""The contents of all memories of a chip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ommatid.isa.program import Program

Bytes = np.ndarray[Any, Any]


@dataclass
class Memories:
    """DRAM of the chip (uint8), and of each core SRAM (uint8) and accumulators (int32)."""

    dram: Bytes
    sram: list[Bytes]
    acc: list[Bytes]

    def copy(self) -> Memories:
        """A copy that shares nothing."""
        return Memories(self.dram.copy(), [m.copy() for m in self.sram], [m.copy() for m in self.acc])


def initial(program: Program) -> Memories:
    """The constants from DRAM address 0 on, all else zero."""
    target = program.target
    dram = np.zeros(max(program.dram_bytes, len(program.constants)), np.uint8)
    dram[: len(program.constants)] = program.constants
    sram = [np.zeros(target.sram_bytes, np.uint8) for _ in range(target.cores)]
    acc = [np.zeros(target.accumulator_bytes // 4, np.int32) for _ in range(target.cores)]
    return Memories(dram, sram, acc)
