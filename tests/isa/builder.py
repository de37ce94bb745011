"""Programs written by hand, for tests: instructions by keyword, symbols that cover whole memories.

b = Builder("ommatid-256", constants=bytes(range(64)))
b.load(src=0, dst=64, run=16, signal=["store"])
b.store(src=64, dst=4096, run=16, wait=["load"], signal=["ctl"])
b.end(wait=["store"])
program = b.program()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from ommatid.isa.footprint import accesses
from ommatid.isa.instructions import BY_MNEMONIC, DTYPES, STREAM, Engine, Memory
from ommatid.isa.program import ROLES, SYMBOL, Partition, Program, empty_program
from ommatid.isa.target import Target, load_target

Queue = str | tuple[int, str]  # "mx", or (core, "mx")


def mask(core: int, queues: Iterable[Queue]) -> int:
    """The wait or signal mask that names these queues; those without a core are of ``core``."""
    pairs = [(core, q) if isinstance(q, str) else q for q in queues]
    return sum(1 << (8 * c + Engine[name.upper()]) for c, name in pairs)


class Builder:
    """Collects instructions; every mnemonic is a method that takes its fields by keyword.

    Fields left out are 0, or the least that is allowed. ``core`` is a field; ``wait`` and ``signal`` are
    lists of queues ("mx", or (core, "mx")). Each call gives the instruction's index.
    """

    def __init__(
        self, target: str | Target = "ommatid-1k", constants: bytes = b"", dram_bytes: int = 1 << 20
    ) -> None:
        self.target = target if isinstance(target, Target) else load_target(target)
        self.constants = np.frombuffer(constants, np.uint8)  # DRAM from address 0
        self.dram_bytes = dram_bytes
        self.records: list[np.ndarray[Any, Any]] = []

    def __getattr__(self, mnemonic: str) -> Callable[..., int]:
        if mnemonic not in BY_MNEMONIC:
            raise AttributeError(f"no instruction {mnemonic!r}")
        return partial(self.emit, mnemonic)

    def emit(
        self, mnemonic: str, core: int = 0, wait: Iterable[Queue] = (), signal: Iterable[Queue] = (),
        **fields: Any,
    ) -> int:  # fmt: skip
        """Append an instruction; its index in the program."""
        record = np.zeros(1, DTYPES[mnemonic])
        for field in BY_MNEMONIC[mnemonic].fields:
            record[field.name] = fields.pop(field.name, max(0, field.low or 0))
        if fields:
            raise TypeError(f"{mnemonic} has no field {', '.join(fields)}")
        record["opcode"], record["core"] = BY_MNEMONIC[mnemonic].opcode, core
        record["wait"], record["signal"] = mask(core, wait), mask(core, signal)
        self.records.append(record.view(STREAM))
        return len(self.records) - 1

    def stream(self) -> np.ndarray[Any, Any]:
        """The instructions so far."""
        return np.concatenate(self.records) if self.records else np.zeros(0, STREAM)

    def program(self) -> Program:
        """One partition of all instructions; three symbols cover the DRAM, the SRAM and the accumulators."""
        program = empty_program(self.target)
        stream = self.stream()
        size = {Memory.DRAM: self.dram_bytes, Memory.SRAM: self.target.sram_bytes}
        size[Memory.ACC] = self.target.accumulator_bytes
        role = {Memory.DRAM: "activation", Memory.SRAM: "tile", Memory.ACC: "accumulator"}
        program.instructions = stream
        program.operands = np.full((len(stream), program.operands.shape[1]), -1, np.int32)
        for access in accesses(stream, self.target):
            program.operands[access["instruction"], access["slot"]] = access["memory"]
        program.layer_of = np.full(len(stream), -1, np.int32)
        program.constants = self.constants
        program.symbols = np.array([(m, ROLES.index(role[m]), -1, 0, size[m]) for m in Memory], SYMBOL)
        program.partitions = (Partition("npu", (), (), 0, len(stream)),)
        program.dram_bytes = self.dram_bytes
        return program
