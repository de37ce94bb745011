"""Random legal instructions and small whole programs, for tests of the ISA."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ommatid.isa.instructions import BY_MNEMONIC, INSTRUCTIONS, Field
from ommatid.isa.program import (
    Layer,
    Partition,
    Placed,
    Port,
    Program,
    Quantization,
    Tensor,
)
from tests.isa.builder import Builder

MNEMONICS = [row.mnemonic for row in INSTRUCTIONS]


def values(field: Field, most: int | None = None) -> st.SearchStrategy[Any]:
    """All that a field may hold; counts and strides up to ``most`` where that is given."""
    if field.type.startswith("f"):
        return st.floats(width=32, allow_nan=False, allow_infinity=False)
    info = np.iinfo(field.type)
    low = info.min if field.low is None else field.low
    high = info.max if field.high is None else field.high
    if most is not None:
        low, high = max(low, -most), max(low, min(high, most))
    return st.integers(-(-low // field.step), high // field.step).map(lambda v: v * field.step)


@st.composite
def legal_fields(draw: st.DrawFn, mnemonic: str, most: int | None = None) -> dict[str, Any]:
    """Fields of a record that the table allows."""
    return {field.name: draw(values(field, most)) for field in BY_MNEMONIC[mnemonic].fields}


@st.composite
def streams(draw: st.DrawFn, longest: int = 6) -> np.ndarray[Any, Any]:
    """A stream of legal records with tokens of any queues."""
    builder = Builder()
    for mnemonic in draw(st.lists(st.sampled_from(MNEMONICS), min_size=1, max_size=longest)):
        i = builder.emit(mnemonic, core=draw(st.integers(0, 3)), **draw(legal_fields(mnemonic)))
        queues = [8 * core + engine for core in range(4) for engine in range(5)]
        for name in ("wait", "signal"):
            bits = draw(st.sets(st.sampled_from(queues), max_size=3))
            builder.records[i][name] = sum(1 << bit for bit in bits)
    return builder.stream()


def whole_program() -> Program:
    """A program in which nothing is empty: an NPU partition and one of the CPU, as a compiler would write it."""
    b = Builder("ommatid-256", constants=bytes(range(256)))
    b.load(src=0, dst=64, run=256, signal=["mx"])
    b.fill(dst=1024, run=64, n2=2, dst_s2=64, value=7, signal=["vx"])
    b.conv(src=64, weights=128, in_h=2, in_w=4, cin=8, src_row=32, src_pixel=8, out_h=2, out_w=4, cout=8,
           weights_type=1, acc=0, acc_pixel=32, src_zero=-3, src_type=1, acc_bytes=4, kh=1, kw=1, wait=["load"],
           signal=["vx"])  # fmt: skip
    b.map(src=0, source=1, h=2, w=4, c=8, src_row=128, src_pixel=32, parameters=1024, dst=2048, dst_row=64,
          dst_pixel=8, mid_type=1, a_factor=0.1, wait=["load", "mx"], signal=["store"])  # fmt: skip
    b.store(src=2048, dst=8192, run=128, wait=["vx"], signal=["ctl"])
    b.end(wait=["store"])
    program = b.program()
    tensor = Tensor("y", (1, 2, 8, 8), Quantization(0.25, -3, "int8"), (1, 8, 2, 8), (0, 3, 1, 2))
    ports = (Port("x", (1, 8), "tensor(float)", None), Port("y", (1, 8, 2, 8), "tensor(float)", "y"))
    return dataclasses.replace(
        program,
        layer_of=np.array([0, 0, 0, 0, 0, -1], np.int32),
        layers=(Layer("first; conv", "Conv", ("conv", "relu \u2028 \u00e9"), 512, 0.5),),
        placed=(Placed(tensor, 0, 0, 8192, (128, 64, 8, 1), 4, 6, 0),),
        partitions=(
            Partition("cpu", ("x",), ("q",), model=b"\x00not a model\xff", nodes=("celu",), reasons=("no rule",)),
            *program.partitions,
        ),
        inputs=ports[:1],
        outputs=ports[1:],
        lower_bound_cycles=1.5,
        roofline_cycles=2.5,
        compulsory_dram_bytes=384,
        metadata={"alphabet": "a\nb"},
        info={"ommatid": "0", "options": {"optimize": 2}},
    )  # fmt: skip


def same(a: Program, b: Program) -> bool:
    """All fields of two programs are equal, arrays with their dtypes."""
    for field in dataclasses.fields(Program):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            if x.dtype != y.dtype or x.shape != y.shape or x.tobytes() != y.tobytes():
                return False
        elif x != y:
            return False
    return True
