"""The instruction table: its rows are sound, records are the bytes of the manual, and a wrong row cannot be made."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ommatid.isa import instructions
from ommatid.isa.instructions import (
    BY_MNEMONIC,
    DTYPES,
    HEADER,
    INSTRUCTION_BYTES,
    INSTRUCTIONS,
    STREAM,
    Field,
    Instruction,
    view,
)
from ommatid.isa.verifier import verify
from tests.isa.builder import Builder
from tests.isa.records import MNEMONICS, legal_fields

MANUAL = (Path(__file__).parents[2] / "docs" / "isa.md").read_text(encoding="utf-8")
CODES = {"u8": "B", "u16": "H", "u32": "I", "i8": "b", "i16": "h", "i32": "i", "f32": "f"}


def manual_fields(table: str) -> list[tuple[int, str, str, str]]:
    """(byte, name, type, limits) of every line of one of the manual's tables."""
    text = re.search(rf"<!-- table:{table} -->\n(.*?)<!-- /table -->", MANUAL, re.DOTALL)
    assert text is not None
    lines = re.findall(r"^\| (\d+) \| `(\w+)` \| (\w+) \| .*? \| (.*?) \| .*\|$", text[1], re.MULTILINE)
    return [(int(at), name, kind, limits) for at, name, kind, limits in lines]


def test_mnemonics_and_opcodes_are_unique() -> None:
    assert len({row.mnemonic for row in INSTRUCTIONS}) == len(INSTRUCTIONS)
    assert len({row.opcode for row in INSTRUCTIONS}) == len(INSTRUCTIONS)
    assert all(0 < row.opcode < 256 for row in INSTRUCTIONS)


@pytest.mark.parametrize("row", INSTRUCTIONS, ids=MNEMONICS)
def test_no_two_fields_share_a_byte(row: Instruction) -> None:
    used = np.zeros(INSTRUCTION_BYTES, int)
    for kind, at in (DTYPES[row.mnemonic].fields or {}).values():  # type: ignore[misc]
        used[at : at + kind.itemsize] += 1
        assert at % kind.itemsize == 0 and at + kind.itemsize <= INSTRUCTION_BYTES
    assert used.max() == 1


@pytest.mark.parametrize("row", INSTRUCTIONS, ids=MNEMONICS)
def test_limits_fit_their_type_and_allow_a_default(row: Instruction) -> None:
    for field in (*HEADER, *row.fields):
        if field.type.startswith("f"):
            assert field.low is field.high is None
            continue
        info = np.iinfo(field.type)
        low = info.min if field.low is None else field.low
        high = info.max if field.high is None else field.high
        default = max(0, low)
        assert info.min <= low <= default <= high <= info.max and default % field.step == 0
        assert not field.choices or (low, high) == (0, len(field.choices) - 1)


@pytest.mark.parametrize("row", INSTRUCTIONS, ids=MNEMONICS)
def test_every_operand_has_an_address(row: Instruction) -> None:
    fields = {field.name: field for field in row.fields}
    for operand in row.operands:
        assert "address" in fields[operand.field].unit and fields[operand.field].type == "u4"
    addresses = {field.name for field in row.fields if "address" in field.unit}
    assert addresses == {operand.field for operand in row.operands}


@pytest.mark.parametrize("mnemonic", MNEMONICS)
@settings(deadline=None, max_examples=10)
@given(data=st.data(), header=st.tuples(st.integers(0, 3), *[st.integers(0, 2**32 - 1)] * 2))
def test_a_record_is_the_bytes_of_the_manual(
    mnemonic: str, data: st.DataObject, header: tuple[int, int, int]
) -> None:
    fields = data.draw(legal_fields(mnemonic))
    builder = Builder()
    builder.emit(mnemonic, **fields)
    record = builder.stream()
    record["core"], record["wait"], record["signal"] = header
    everything = dict(zip(("core", "wait", "signal"), header, strict=True)) | fields
    everything |= {"opcode": BY_MNEMONIC[mnemonic].opcode, "reserved": 0}
    expected = bytearray(INSTRUCTION_BYTES)
    for at, name, kind, _ in manual_fields("header") + manual_fields(mnemonic):
        struct.pack_into("<" + CODES[kind], expected, at, everything.pop(name))
    assert not everything, "fields that the manual does not list"
    assert record.tobytes() == bytes(expected)
    decoded = view(np.frombuffer(bytes(expected), STREAM), mnemonic)[0]
    assert all(decoded[name] == np.asarray(value, decoded[name].dtype) for name, value in fields.items())


def just_outside(limits: str, kind: str) -> list[int]:
    """Values that break the limits as the manual writes them."""
    info = np.iinfo({"u": "uint", "i": "int"}[kind[0]] + kind[1:])
    outside = []
    if found := re.search(r"multiple of (\d+)", limits):
        outside.append(int(found[1]) // 2)
    if found := re.search(r"at least (\d+)", limits):
        outside.append(int(found[1]) - 1)
    if found := re.search(r"(-?\d+)\.\.(\d+)", limits):
        outside += [int(found[1]) - 1, int(found[2]) + 1]
    if re.fullmatch(r"\d+", limits):
        outside += [int(limits) - 1, int(limits) + 1]
    if found := re.fullmatch(r"at most (\d+)", limits):
        outside.append(int(found[1]) + 1)
    if names := re.findall(r"(\d+) \w+", limits if "multiple" not in limits else ""):
        outside.append(int(names[-1]) + 1)
    return [value for value in outside if info.min <= value <= info.max]


@pytest.mark.parametrize("mnemonic", MNEMONICS)
def test_the_verifier_refuses_what_the_manual_does(mnemonic: str) -> None:
    builder = Builder()
    builder.emit(mnemonic)
    for _, name, kind, limits in [*manual_fields("header"), *manual_fields(mnemonic)]:
        for value in just_outside(limits, kind) if kind[0] in "ui" else ():
            program = builder.program()
            view(program.instructions, mnemonic)[name] = value
            assert any(f"{name} = {value} is not allowed" in line for line in verify(program))


def field(name: str, kind: str = "u4") -> Field:
    return Field(name, kind, "for a test")


@pytest.mark.parametrize("fields, message", [
    ((field("a"), field("a", "u1")), "bad: a field name occurs twice"),
    ((field("wait"),), "bad: a field name occurs twice"),
    (tuple(field(f"f{i}") for i in range(30)), "bad: 132 bytes of fields do not fit in 128"),
    ((field("a", "u8"),), r"bad.a: offset 12 is not aligned to 8 bytes"),
])  # fmt: skip
def test_a_wrong_row_cannot_be_made(fields: Any, message: str) -> None:
    row = replace(BY_MNEMONIC["end"], mnemonic="bad", fields=fields)
    with pytest.raises(TypeError, match=message):
        instructions._layout(row)


def test_an_operand_without_a_field_cannot_be_made() -> None:
    row = replace(BY_MNEMONIC["load"], fields=BY_MNEMONIC["fill"].fields)
    with pytest.raises(TypeError, match="load: operand src names no field 'src'"):
        instructions._layout(row)
