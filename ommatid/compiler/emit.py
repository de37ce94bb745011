"""The emitter: collects instructions, constants and symbols while layers are lowered, and makes the arrays.

Lowering calls ``emit`` in an order that is right one instruction at a time. DRAM addresses of activations
are relative to the end of the constants and instructions until ``finish`` knows where that is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
_ROLE = {role: number for number, role in enumerate(ROLES)}
_SYMBOL = SYMBOL.names or ()
_BYTES = np.dtype((np.void, INSTRUCTION_BYTES))
_RELOCATED = tuple(_ROLE[role] for role in ("input", "output", "activation"))


@dataclass(frozen=True, eq=False)
class Form:
    """What instructions have in common: fields of the same value, the names of the others and of operands; and a column
    for each of these, in program order."""

    mnemonic: str
    same: Mapping[str, Any]
    fields: tuple[str, ...]
    operands: tuple[str, ...]
    where: list[int] = field(default_factory=list)
    values: list[tuple[Any, ...]] = field(default_factory=list)
    symbols: list[tuple[int, ...]] = field(default_factory=list)


@dataclass
class Emitter:
    """Instructions so far by their forms, the layer and core of each, constants and symbols."""

    layers: list[int] = field(default_factory=list)
    cores: list[int] = field(default_factory=list)
    symbols: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    layer: int = -1
    core: int = 0
    _forms: list[Form] = field(default_factory=list)
    _plain: dict[Any, Form] = field(default_factory=dict)  # forms of ``emit``
    _blobs: list[bytes] = field(default_factory=list)
    _constant_bytes: int = 0
    _known_blobs: dict[bytes, int] = field(default_factory=dict)

    def symbol(self, memory: Memory, role: str, address: int, size: int, layer: int | None = None) -> int:
        """A new symbol's number; ``layer`` is the one being lowered unless given."""
        owner = self.layer if layer is None else layer
        self.symbols.append((int(memory), _ROLE[role], owner, address, size))
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

    def form(
        self, mnemonic: str, fields: tuple[str, ...], operands: tuple[str, ...], same: Mapping[str, Any]
    ) -> Form:
        """A form of many instructions, for ``add``."""
        self._forms.append(Form(mnemonic, same, fields, operands))
        return self._forms[-1]

    def add(self, form: Form, values: tuple[Any, ...], symbols: tuple[int, ...]) -> None:
        """Append an instruction: the values of its fields, and the symbol of each memory operand."""
        form.where.append(len(self.layers))
        form.values.append(values)
        form.symbols.append(symbols)
        self.layers.append(self.layer)
        self.cores.append(self.core)

    def emit(self, mnemonic: str, symbols: dict[str, int], **fields: Any) -> None:
        """Append an instruction of any form; ``symbols`` names each memory operand's symbol."""
        key = mnemonic, (*fields,), (*symbols,)
        if key not in self._plain:
            self._plain[key] = self.form(*key, {})
        self.add(self._plain[key], (*fields.values(),), (*symbols.values(),))

    @property
    def dram_base(self) -> int:
        """DRAM bytes of constants and instructions so far: where activations begin."""
        return aligned(self._constant_bytes + len(self.layers) * INSTRUCTION_BYTES, 4096)

    def finish(self) -> Finished:
        """The arrays of the program; see Finished."""
        constants = np.frombuffer(b"".join(self._blobs), np.uint8)
        base, count = self.dram_base, len(self.layers)
        symbols = np.zeros(len(self.symbols), SYMBOL)
        columns = np.array(self.symbols, np.int64).reshape(-1, len(_SYMBOL)).T
        for name, column in zip(_SYMBOL, columns, strict=True):
            symbols[name] = column
            if (symbols[name] != column).any():
                raise ValueError(f"a symbol's {name} is beyond what its field holds")
        moved = (symbols["memory"] == Memory.DRAM) & np.isin(symbols["role"], _RELOCATED)
        symbols["address"][moved] += np.uint32(base)
        stream = np.zeros(count, STREAM)
        operands = np.full((count, MAX_OPERANDS), -1, np.int32)
        alike: dict[Any, list[Form]] = {}  # of many layers, which differ in values alone
        for form in self._forms:
            if form.where:
                alike.setdefault((form.mnemonic, form.fields, form.operands, (*form.same,)), []).append(form)
        for (mnemonic, _, named, _), forms in alike.items():
            records, where = _records(forms), [i for form in forms for i in form.where]
            numbers = np.array([row for form in forms for row in form.symbols], np.int32).reshape(
                len(where), -1
            )
            for name, symbol in zip(named, numbers.T, strict=True):
                slot, operand = _SLOTS[mnemonic][name]
                operands[where, slot] = symbol
                if operand.memory == Memory.DRAM:
                    records[operand.field][(symbol >= 0) & moved[symbol]] += np.uint32(base)
            stream.view(_BYTES)[where] = records.view(_BYTES)
        stream["core"] = self.cores
        return Finished(stream, operands, np.array(self.layers, np.int32), constants, symbols, base)


def _records(forms: Sequence[Form]) -> Array:
    """The instructions of forms that name the same fields; the others have their defaults."""
    form = forms[0]
    row, limits = BY_MNEMONIC[form.mnemonic], _LIMITS[form.mnemonic]
    counts = [len(each.where) for each in forms]
    records = np.zeros(sum(counts), DTYPES[form.mnemonic])
    records["opcode"] = row.opcode
    for spec in row.fields:
        if spec.low is not None and spec.low > 0 and spec.name not in form.fields:
            records[spec.name] = spec.low
    values = np.array([row for each in forms for row in each.values]).reshape(len(records), -1)
    columns = [
        *zip(form.fields, values.min(axis=0).tolist(), values.max(axis=0).tolist(), values.T, strict=True)
    ]
    for name in form.same:
        same = np.array([each.same[name] for each in forms])
        columns.append((name, same.min().item(), same.max().item(), np.repeat(same, counts)))
    for name, smallest, largest, column in columns:
        least, most = limits[name]
        for value in (smallest, largest):
            if not least <= value <= most:
                raise ValueError(f"{form.mnemonic}.{name} = {int(value)}: must be {least}..{most}")
        records[name] = column
    return records


def _limits(spec: Field) -> tuple[float, float]:
    """What a field can hold."""
    if spec.type.startswith("f"):
        return -math.inf, math.inf
    info = np.iinfo(spec.type)
    return info.min if spec.low is None else spec.low, info.max if spec.high is None else spec.high


_LIMITS = {row.mnemonic: {spec.name: _limits(spec) for spec in row.fields} for row in INSTRUCTIONS}
_SLOTS = {
    row.mnemonic: {operand.name: (slot, operand) for slot, operand in enumerate(row.operands)}
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
