"""The memories of a chip, and tensors in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ommatid.isa.footprint import accesses
from ommatid.isa.instructions import Memory
from ommatid.isa.program import Placed, Program

Array = np.ndarray[Any, Any]
SLACK = 64


@dataclass
class Memories:
    """The memories of a chip with a program's constants in DRAM; all else starts as zeros.

    ``dram`` is uint8 of the program's ``dram_bytes``; ``sram`` (uint8) and ``acc`` (int32) have one array for
    each core of the target if the program uses more than one, else for core 0. These are parts of ``all_sram`` and
    ``all_acc``, where SLACK bytes that are no memory follow each core's: kernels read whole vectors.
    """

    program: Program
    dram: Array = field(init=False)
    sram: list[Array] = field(init=False)
    acc: list[Array] = field(init=False)
    all_sram: Array = field(init=False)
    all_acc: Array = field(init=False)

    def __post_init__(self) -> None:
        target = self.program.target
        cores = target.cores if target.cores > 1 and self._use_several_cores() else 1
        self.dram = np.zeros(self.program.dram_bytes, np.uint8)
        self.dram[: len(self.program.constants)] = self.program.constants
        self.all_sram = aligned_zeros(cores * (target.sram_bytes + SLACK))
        self.all_acc = aligned_zeros(cores * (target.accumulator_bytes + SLACK)).view(np.int32)
        self.sram = [part[: target.sram_bytes] for part in self.all_sram.reshape(cores, -1)]
        self.acc = [part[: target.accumulator_bytes // 4] for part in self.all_acc.reshape(cores, -1)]

    def _use_several_cores(self) -> bool:
        """Whether an instruction runs in another core than 0, or touches another's memory."""
        stream = self.program.instructions
        return bool(stream["core"].any() or accesses(stream, self.program.target)["core"].any())

    def write(self, placed: Placed, values: Array) -> None:
        """Put a tensor (its memory shape and type) where it lies."""
        memory, address = self._of(placed)
        _window(memory, address, placed)[...] = values
        begin = placed.address - address
        for core, low, high in placed.held:
            self.sram[core][begin : begin + high - low] = memory[low:high]

    def read(self, placed: Placed) -> Array:
        """A copy of a tensor (its memory shape and type)."""
        return _window(*self._of(placed), placed).copy()

    def _of(self, placed: Placed) -> tuple[Array, int]:
        """The memory that a tensor lies in, and its address there; where cores hold it, its buffer put together."""
        if not placed.held:
            return (self.dram if placed.memory == Memory.DRAM else self.sram[0]), placed.address
        begin = int(self.program.symbols["address"][placed.symbol])
        whole = np.zeros(max(high for _, _, high in placed.held), np.uint8)
        for core, low, high in placed.held:
            whole[low:high] = self.sram[core][begin : begin + high - low]
        return whole, placed.address - begin


def _window(memory: Array, address: int, placed: Placed) -> Array:
    """A tensor's bytes in memory as an array of its memory shape and type, without copying."""
    dtype = np.dtype(placed.tensor.quantization.dtype)
    held = memory[address:]
    held = held[: len(held) // dtype.itemsize * dtype.itemsize].view(dtype)
    return as_strided(held, placed.tensor.shape, placed.strides)


def aligned_zeros(size: int) -> Array:
    """Zero bytes that begin where a line of the host's cache does."""
    data = np.zeros(size + SLACK, np.uint8)
    return data[-data.ctypes.data % SLACK :][:size]
