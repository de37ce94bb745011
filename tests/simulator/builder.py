"""Memories full of noise, and one instruction that runs on them: for tests of the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.target import Target, load_target
from ommatid.simulator.functional import Machine
from tests.isa.builder import Builder

Array = np.ndarray[Any, Any]
SIZE, LOW, HIGH = (1, 1, 2), (0, -128, -32768), (255, 127, 32767)  # of elements: u8, i8, i16


class Scene:
    """Memories full of noise, of which a test takes pieces one after the other.

    ``run`` executes one instruction on a copy of them.
    """

    def __init__(self, seed: int, target: Target | None = None, dram_bytes: int = 1 << 16) -> None:
        self.rng = np.random.default_rng(seed)
        self.target = target or load_target()
        self.sram = self.rng.integers(0, 256, self.target.sram_bytes, np.uint8)
        self.dram = self.rng.integers(0, 256, dram_bytes, np.uint8)
        self.acc = self.rng.integers(-(1 << 24), 1 << 24, self.target.accumulator_bytes // 4, np.int32)
        self._taken = int(self.rng.integers(0, 40))
        self._acc_taken = 4 * int(self.rng.integers(0, 4))

    def take(self, size: int, align: int = 1) -> int:
        """The address of ``size`` bytes of SRAM that nothing else has."""
        address = -(-self._taken // align) * align
        self._taken = address + size + int(self.rng.integers(0, 20))
        assert self._taken <= len(self.sram), "the scene is too large for the SRAM"
        return address

    def put(self, values: Array, align: int = 1) -> int:
        """The address of a piece of SRAM that holds these values' bytes."""
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        address = self.take(len(data), align)
        self.sram[address : address + len(data)] = data
        return address

    def image(
        self, name: str, h: int, w: int, c: int, dense: bool = False, kind: int = 0
    ) -> tuple[dict[str, int], Array]:
        """Room for h x w x c elements with odd, at times negative strides: (fields, addresses [h, w, c])."""
        size = SIZE[kind]
        gaps = [0, 0] if dense else (size * self.rng.integers(0, 6, 2)).tolist()
        pixel = size * c + gaps[0]
        row = w * pixel + gaps[1]
        address = self.take(h * row, size)
        if not dense and self.rng.random() < 0.3:
            address, row = address + (h - 1) * row, -row
        fields = {name: address, f"{name}_row": row, f"{name}_pixel": pixel}
        return fields, addresses(address, (h, row), (w, pixel), (c, size))

    def numbers(self, index: Array, kind: int) -> Array:
        """The numbers (int64) of the elements at these addresses."""
        return numbers(self.sram, index, kind)

    def accumulators(self, pixels: int, channels: int, size: int = 4) -> tuple[dict[str, int], Array]:
        """Room for accumulators: (fields, indices [pixels, channels] of numbers of their size)."""
        step = size * (channels + int(self.rng.integers(0, 4)))
        first = -(-self._acc_taken // size) * size
        assert first + pixels * step <= 4 * len(self.acc), "the scene is too large for the accumulators"
        index = addresses(first // size, (pixels, step // size), (channels, 1))
        return {"acc": first, "acc_pixel": step} | ({"acc_bytes": size} if size > 4 else {}), index

    def run(self, mnemonic: str, path: str | None = None, **fields: Any) -> Machine:
        """The machine after one instruction; ``path`` multiplies."""
        builder = Builder(self.target, dram_bytes=len(self.dram))
        builder.emit(mnemonic, **fields)
        machine = Machine(builder.program(), path=path)
        machine.dram[:] = self.dram
        machine.sram[0][:] = self.sram
        machine.acc[0][:] = self.acc
        machine.run(0, 1)
        return machine


def numbers(memory: Array, index: Array, kind: int) -> Array:
    """The numbers (int64) of the elements of a type, 0 u8, 1 i8, 2 i16, that begin at these bytes."""
    bits = memory[index].astype(np.int64)
    if SIZE[kind] == 2:
        bits += 256 * memory[index + 1].astype(np.int64)
    return np.where(bits > HIGH[kind], bits - 256 ** SIZE[kind], bits)


def put(memory: Array, index: Any, values: Array, kind: int) -> None:
    """Write numbers as elements of a type."""
    memory[index] = values & 255
    if SIZE[kind] == 2:
        memory[index + 1] = values >> 8 & 255


def addresses(first: int, *loops: tuple[int, int]) -> Array:
    """``first`` plus all combinations of the loops (count, step), outermost first."""
    index = np.array(first)
    for count, step in loops:
        index = index[..., None] + np.arange(count) * step
    return index
