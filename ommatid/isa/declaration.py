"""What a row of the instruction table is made of: fields with their limits, and operands in the memories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from ommatid.isa.target import Target

MOST_CORES = 4


class Memory(IntEnum):
    """An address space. DRAM is shared; SRAM and accumulators belong to a core."""

    DRAM = 0
    SRAM = 1
    ACC = 2


class Engine(IntEnum):
    """A queue of a core; also the bit of that queue in the ``wait`` and ``signal`` masks."""

    LOAD = 0
    STORE = 1
    MX = 2
    VX = 3
    CTL = 4


class Mode(IntEnum):
    """What an operand does to its bytes."""

    READ = 1
    WRITE = 2
    UPDATE = 3  # reads and writes


@dataclass(frozen=True)
class Field:
    """One field of a descriptor: NumPy type code, unit, meaning, and limits (inclusive)."""

    name: str
    type: str
    meaning: str
    unit: str = ""
    low: int | None = None
    high: int | None = None
    step: int = 1
    choices: tuple[str, ...] = ()  # names of the values 0, 1, 2 ...


Records = Any  # a structured array of one instruction's dtype
Loops = list[tuple[Any, Any]]  # (count, stride in bytes), outermost last
Extent = Callable[[Records, Target], tuple[Any, Loops]]
Sizes = Callable[[Records], Any]


def one_byte(r: Records) -> Any:
    """The size of elements that are bytes."""
    return np.ones(len(r), np.int64)


@dataclass(frozen=True)
class Operand:
    """One memory operand: a run of elements repeated by up to four loops, from the address in ``field``.

    ``elements(records, target)`` gives (elements of a run, loops); a run of 0 means that the operand is absent.
    ``size(records)`` gives the bytes of an element: the address and all strides are multiples of it. ``mode`` may be
    a function of the records where a flag turns a write into an update. ``cores`` gives a mask of the cores whose
    memory is meant, where that is not the instruction's own.
    """

    name: str
    memory: Memory
    mode: Mode | Callable[[Records], Any]
    field: str
    elements: Extent
    size: Sizes = one_byte
    cores: Callable[[Records], Any] | None = None

    def extent(self, records: Records, target: Target) -> tuple[Any, Loops]:
        """(bytes of a run, loops)."""
        run, loops = self.elements(records, target)
        return run * self.size(records), loops


@dataclass(frozen=True)
class Instruction:
    """One instruction of the set."""

    mnemonic: str
    opcode: int
    engine: Engine
    summary: str
    fields: tuple[Field, ...]
    operands: tuple[Operand, ...]


HEADER = (
    Field("opcode", "u1", "the instruction"),
    Field("core", "u1", "the core that executes it", high=MOST_CORES - 1),
    Field("reserved", "u2", "zero", high=0),
    Field("wait", "u4", "token queues to take one token from: bit 8 * core + engine of the producer"),
    Field("signal", "u4", "token queues to put one token into: bit 8 * core + engine of the consumer"),
)
