"""The emitter: collects instructions, constants and symbols while layers are lowered, and makes the arrays.

Lowering calls ``emit`` in an order that is right one instruction at a time. DRAM addresses of activations
are relative to the end of the constants and instructions until ``finish`` knows where that is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ommatid.compiler.sram import aligned
from ommatid.isa.declaration import Field
from ommatid.isa.instructions import (
    BY_MNEMONIC,
    DTYPES,
    INSTRUCTION_BYTES,
    INSTRUCTIONS,
    MAX_OPERANDS,
    STREAM,
    Memory,
)
from ommatid.isa.program import ROLES, SYMBOL

Array = np.ndarray[Any, Any]
DRAM_ALIGN = 64
_RELOCATED = (ROLES.index("input"), ROLES.index("output"), ROLES.index("activation"))


@dataclass
class Emitter:
    """Instructions so far (mnemonic, fields, symbols by operand, layer, core), constants and symbols."""

    rows: list[tuple[str, dict[str, Any], dict[str, int], int, int]] = field(default_factory=list)
    symbols: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    layer: int = -1
    core: int = 0
    _blobs: list[bytes] = field(default_factory=list)
    _constant_bytes: int = 0
    _known_blobs: dict[bytes, int] = field(default_factory=dict)

    def symbol(self, memory: Memory, role: str, address: int, size: int, layer: int | None = None) -> int:
        """A new symbol's number; ``layer`` is the one being lowered unless given."""
        owner = self.layer if layer is None else layer
        self.symbols.append((int(memory), ROLES.index(role), owner, address, size))
        return len(self.symbols) - 1

    def constant(self, data: Array | bytes) -> tuple[int, int]:
        """Put ``data`` into the constant image once; (DRAM address, symbol)."""
        blob = data if isinstance(data, bytes) else data.tobytes()
        if blob not in self._known_blobs:
            address = self._constant_bytes
            self._known_blobs[blob] = self.symbol(Memory.DRAM, "constants", address, len(blob))
            padding = aligned(len(blob), DRAM_ALIGN) - len(blob)
            self._blobs += blob, bytes(padding)
            self._constant_bytes += len(blob) + padding
        number = self._known_blobs[blob]
        return self.symbols[number][3], number

    def emit(self, mnemonic: str, symbols: dict[str, int], **fields: Any) -> int:
        """Append an instruction; its index in program order. ``symbols`` names each memory operand's symbol."""
        self.rows.append((mnemonic, fields, symbols, self.layer, self.core))
        return len(self.rows) - 1

    @property
    def dram_base(self) -> int:
        """DRAM bytes of constants and instructions so far: where activations begin."""
        return aligned(self._constant_bytes + len(self.rows) * INSTRUCTION_BYTES, 4096)

    def finish(self) -> Finished:
        """The arrays of the program; see Finished."""
        constants = np.frombuffer(b"".join(self._blobs), np.uint8)
        base = self.dram_base
        symbols = np.array(self.symbols, SYMBOL) if self.symbols else np.zeros(0, SYMBOL)
        moved = (symbols["memory"] == Memory.DRAM) & np.isin(symbols["role"], _RELOCATED)
        symbols["address"][moved] += np.uint32(base)
        stream = np.zeros(len(self.rows), STREAM)
        operands = np.full((len(self.rows), MAX_OPERANDS), -1, np.int32)
        alike: dict[Any, list[int]] = {}  # instructions that give the same fields and operands
        for i, (mnemonic, fields, named, _, _) in enumerate(self.rows):
            alike.setdefault((mnemonic, tuple(fields), tuple(named)), []).append(i)
        for (mnemonic, fields, named), where in alike.items():
            rows = [self.rows[i] for i in where]
            records = np.zeros(len(rows), DTYPES[mnemonic])
            records["core"] = [row[4] for row in rows]
            _fill(records, mnemonic, fields, np.array([(*row[1].values(),) for row in rows]))
            for operand, numbers in zip(
                named, np.array([(*row[2].values(),) for row in rows]).T, strict=True
            ):
                slot, field = _SLOTS[mnemonic][operand]
                operands[where, slot] = numbers
                records[field][(numbers >= 0) & moved[numbers]] += np.uint32(base)
            stream[where] = records.view(STREAM)
        layer_of = np.array([row[3] for row in self.rows], np.int32)
        return Finished(stream, operands, layer_of, constants, symbols, base)


def _fill(records: Array, mnemonic: str, names: tuple[str, ...], values: Array) -> None:
    """Set these fields of records to the columns of ``values``, and the others to their defaults."""
    row = BY_MNEMONIC[mnemonic]
    records["opcode"] = row.opcode
    for spec in row.fields:
        if spec.low is not None and spec.low > 0 and spec.name not in names:
            records[spec.name] = spec.low
    smallest, largest = values.min(axis=0).tolist(), values.max(axis=0).tolist()
    for name, low, high, column in zip(names, smallest, largest, values.T, strict=True):
        least, most = _LIMITS[mnemonic][name]
        for value in (low, high):
            if not least <= value <= most:
                raise ValueError(f"{mnemonic}.{name} = {int(value)}: must be {least}..{most}")
        records[name] = column


def _limits(spec: Field) -> tuple[float, float]:
    """What a field can hold."""
    if spec.type.startswith("f"):
        return -math.inf, math.inf
    info = np.iinfo(spec.type)
    return info.min if spec.low is None else spec.low, info.max if spec.high is None else spec.high


_LIMITS = {row.mnemonic: {spec.name: _limits(spec) for spec in row.fields} for row in INSTRUCTIONS}
_SLOTS = {
    row.mnemonic: {operand.name: (slot, operand.field) for slot, operand in enumerate(row.operands)}
    for row in INSTRUCTIONS
}


@dataclass(frozen=True)
class Finished:
    """Arrays of a program without tokens; ``dram_base`` is the address of activation 0 in DRAM."""

    stream: Array
    operands: Array
    layer_of: Array
    constants: Array
    symbols: Array
    dram_base: int
