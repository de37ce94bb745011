"""Assembly: a text that a person can read, that gives the same program back, and errors that name the line."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ommatid.isa.assembly import TITLE, AssemblyError, assemble, disassemble
from ommatid.isa.instructions import STREAM
from ommatid.isa.program import Layer, Program, empty_program
from ommatid.isa.target import load_target
from tests.golden import check_golden
from tests.isa.builder import Builder
from tests.isa.records import same, streams, whole_program


def with_stream(stream: np.ndarray[Any, Any]) -> Program:
    program = whole_program()
    count = len(stream)
    return dataclasses.replace(
        program,
        instructions=stream,
        operands=np.full((count, program.operands.shape[1]), -1, np.int32),
        layer_of=np.arange(count, dtype=np.int32) - 1,
    )


def test_a_small_program() -> None:
    check_golden(__file__, "small.txt", disassemble(whole_program()))


def test_the_text_gives_the_program_back() -> None:
    for program in (whole_program(), empty_program(load_target())):
        assert same(assemble(disassemble(program)), program)


@settings(deadline=None, max_examples=30)
@given(streams())
def test_any_legal_stream_comes_back(stream: np.ndarray[Any, Any]) -> None:
    program = with_stream(stream)
    text = disassemble(program)
    assert same(assemble(text), program) and " raw " not in text.partition("\nmetadata")[0]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.binary(min_size=128, max_size=128), min_size=1, max_size=3), st.data())
def test_any_bytes_come_back(records: list[bytes], data: st.DataObject) -> None:
    stream = np.frombuffer(b"".join(records), STREAM).copy()
    stream["opcode"] = data.draw(st.sampled_from([*range(17), 255]))
    assert same(assemble(disassemble(with_stream(stream))), with_stream(stream))


@pytest.mark.parametrize("value", [0.1, -0.0, float("nan"), float("inf"), 1e-45, 3.4028235e38])
def test_every_float_comes_back(value: float) -> None:
    b = Builder()
    b.map(a_factor=value)
    program = with_stream(b.stream())
    assert same(assemble(disassemble(program)), program)


def test_queues_have_names() -> None:
    b = Builder()
    b.load(core=1, run=4, wait=[(0, "vx"), "mx"], signal=[(3, "ctl")])
    line = disassemble(b.program()).splitlines()[2]
    assert line == "     0 load.load run=4 wait=vx,1.mx signal=3.ctl core=1"


@given(st.text())
@settings(deadline=None, max_examples=30)
def test_any_layer_name_is_a_comment(name: str) -> None:
    b = Builder()
    b.end()
    program = b.program()
    program.layer_of[:] = 0
    program.layers = (Layer(name, "Conv", (), 0, 0.0),)
    text = disassemble(program)
    assert text.splitlines()[3] == ""
    assert same(assemble(text), program)


def changed(old: str, new: str) -> str:
    text = disassemble(whole_program())
    assert text.count(old) >= 1
    return text.replace(old, new, 1)


@pytest.mark.parametrize("old, new, message", [
    (TITLE, "ommatid assembly 9", "line 1: is not 'ommatid assembly 1'"),
    ("load.load dst", "load.lode dst", "line 3: no instruction 'load.lode'"),
    ("run=256", "runs=256", "line 3: load has no field 'runs'"),
    ("run=256", "run=many", "line 3: load.run = 'many' cannot be read"),
    ("run=256", "run=0x100000000", "line 3: load.run = '0x100000000' cannot be read"),
    ("run=256", "run", "line 3: load.run = '' cannot be read"),
    ("n2=2", "n2=-1", "line 4: fill.n2 = '-1' cannot be read"),
    ("signal=mx", "signal=alu", "line 3: load.signal = 'alu' cannot be read"),
    ("signal=mx", "signal=mx,mx", "line 3: load.signal = 'mx,mx' cannot be read"),
    ("src_type=i8", "src_type=i4", "line 5: conv.src_type = 'i4' cannot be read"),
    ("     0 load.load", "     0 raw abc", "line 3: raw needs 128 bytes in hexadecimal"),
    ("     1 load.fill", "load.fill", "line 4: no instruction 'dst=0x400'"),
    ("ctl.end wait=store", "", "line 8: holds no instruction"),
    ("     5 ctl.end wait=store", "5", "line 8: holds no instruction"),
    ("\nmetadata\n{", "\nmetadata\n[", "line 11: metadata must be one line of JSON"),
    ("\nmetadata\n", "\n", r"line 10: no instruction"),
    ('"partitions": [', '"partitions": ["a", ', "the sections do not make a program"),
    ('"layers": [', '"layers": [1, ', "the sections do not make a program"),
    ('"sram_kib": 384', '"sram_kib": 1', "the sections do not make a program: target: sram_kib = 1: must be"),
    ("array operands int32 6,7", "array operands int32 7,7", "line 13: an array is 'array NAME DTYPE SHAPE'"),
    ("array operands int32", "array operands object", "line 13: an array is"),
    ("array operands", "array others", "the sections do not make a program: 'operands'"),
])  # fmt: skip
def test_errors_name_the_line(old: str, new: str, message: str) -> None:
    with pytest.raises(AssemblyError, match=message):
        assemble(changed(old, new))


def test_a_text_cut_short() -> None:
    text = disassemble(whole_program())
    with pytest.raises(AssemblyError, match="line 8: the section 'metadata' is missing"):
        assemble("\n".join(text.splitlines()[:8]))
    with pytest.raises(AssemblyError, match="line 11: metadata must be one line of JSON"):
        assemble("\n".join(text.splitlines()[:10]))
    with pytest.raises(AssemblyError, match="line 1"):
        assemble("")
