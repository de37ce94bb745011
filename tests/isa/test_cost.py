"""Cost formulas against plain loops over what an instruction does, and the numbers of docs/isa.md by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ommatid.isa.cost import COSTS, cost_cycles, dram_bytes, macs
from ommatid.isa.instructions import BY_MNEMONIC
from ommatid.isa.target import load_target
from tests.isa.builder import Builder

SMALL = st.integers(1, 6)


def cost(target: str, mnemonic: str, **fields: Any) -> int:
    b = Builder(target)
    b.emit(mnemonic, **fields)
    (cycles,) = cost_cycles(b.stream(), b.target)
    return int(cycles)


def test_every_instruction_has_a_formula_and_costs_something() -> None:
    assert COSTS.keys() == BY_MNEMONIC.keys()
    for target in ("ommatid-256", "ommatid-1k", "ommatid-4k"):
        for mnemonic in BY_MNEMONIC:
            assert cost(target, mnemonic) >= 1


def up(a: float, b: float) -> int:
    return int(-(-a // b))


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["ommatid-256", "ommatid-1k"]), *[SMALL] * 4, st.sampled_from([1, 3, 17, 64, 360]),
    st.sampled_from([1, 16, 17]), st.integers(0, 1),
)  # fmt: skip
def test_conv(
    name: str, kh: int, kw: int, out_h: int, out_w: int, cin: int, cout: int, row_mode: int
) -> None:
    target = load_target(name)
    tile = target.mx_k_bytes * target.mx_channels
    runs = [kw * cin] * kh if row_mode else [cin] * (kh * kw)
    cycles = load = up(tile, target.port_mx_weight_bytes_per_cycle)
    for _ in range(0, cout, target.mx_channels):
        for run in runs:
            for _ in range(0, run, target.mx_k_bytes):
                cycles += max(len(range(0, out_h * out_w, target.mx_pixels)), load)
    fields = {
        "kh": kh,
        "kw": kw,
        "out_h": out_h,
        "out_w": out_w,
        "cin": cin,
        "cout": cout,
        "row_mode": row_mode,
    }
    assert cost(name, "conv", **fields) == cycles + 8


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["ommatid-256", "ommatid-1k"]), *[SMALL] * 6, st.sampled_from([1, 3, 17, 360]))
def test_dwconv(
    name: str, kh: int, kw: int, out_h: int, out_w: int, stride: int, dilation: int, c: int
) -> None:
    target = load_target(name)
    pixels = target.depthwise_macs_per_cycle // target.mx_k_bytes
    span = (pixels - 1) * stride + (kw - 1) * dilation + 1
    one = max(kw, up(span * target.mx_k_bytes, target.port_mx_activation_bytes_per_cycle))
    cycles = 16
    for _ in range(0, c, target.mx_k_bytes):
        for _ in range(out_h):
            for _ in range(0, out_w, pixels):
                cycles += kh * one
    fields = {
        "kh": kh,
        "kw": kw,
        "out_h": out_h,
        "out_w": out_w,
        "stride_w": stride,
        "dilation_w": dilation,
        "c": c,
    }
    assert cost(name, "dwconv", **fields) == cycles


@pytest.mark.parametrize("mnemonic, fields, cycles", [
    # 3 x 5 pixels of 17 channels are 15 x 32 elements, 32 a cycle
    ("map", {"h": 3, "w": 5, "c": 17, "source": 1}, 15 + 16),
    # two streams of bytes over 64 a cycle do not slow it down
    ("map", {"h": 3, "w": 5, "c": 17, "binary": 1, "operand_c": 1}, 15 + 16),
    ("pool", {"out_h": 3, "out_w": 5, "c": 17, "kh": 3, "kw": 2}, 15 * 6 + 16),
    ("reduce", {"h": 3, "w": 5, "c": 17}, 15 + 16),
    ("resize", {"out_h": 3, "out_w": 5, "c": 17}, 15 + 16),
    ("resize", {"out_h": 3, "out_w": 5, "c": 17, "taps": 1}, 15 * 4 + 16),
    ("softmax", {"h": 3, "w": 5, "c": 17}, 15 * 4 + 16),
    ("lrn", {"h": 3, "w": 5, "c": 17, "size": 5}, 15 * 8 + 16),
    ("norm", {"h": 3, "w": 5, "c": 17}, 15 * 3 + 16),
    ("topk", {"h": 3, "w": 5, "c": 17, "k": 4}, 15 * 4 + 16),
    ("copy", {"n0": 16, "n1": 3, "src_s0": 1, "dst_s0": 1}, 2 + 16),  # 48 bytes by 32
    ("copy", {"n0": 15, "n1": 3, "src_s0": 1, "dst_s0": 1}, 6 + 16),  # short runs: by 8
    ("copy", {"n0": 16, "n1": 3, "src_s0": 2, "dst_s0": 1}, 6 + 16),
    ("end", {}, 1),
    # 16-bit elements: each counts twice, wherever they are
    ("map", {"h": 3, "w": 5, "c": 17, "src_type": 2}, 30 + 16),
    ("map", {"h": 3, "w": 5, "c": 17, "source": 1, "acc_bytes": 8}, 15 + 16),
    ("map", {"h": 3, "w": 5, "c": 17, "source": 1, "acc_bytes": 8, "mid_type": 2}, 30 + 16),
    ("map", {"h": 3, "w": 5, "c": 17, "binary": 1, "b_type": 2}, 30 + 16),
    ("map", {"h": 3, "w": 5, "c": 17, "table2_on": 2}, 30 + 16),
    ("map", {"h": 3, "w": 5, "c": 17, "mid_type": 2, "a_type": 2, "r_type": 2}, 15 + 16),  # none of which is read
    ("pool", {"out_h": 3, "out_w": 5, "c": 17, "kh": 3, "kw": 2, "kind": 1, "dst_type": 2}, 30 * 6 + 16),
    ("reduce", {"h": 3, "w": 5, "c": 17, "src_type": 2}, 30 + 16),
    ("resize", {"out_h": 3, "out_w": 5, "c": 17, "taps": 1, "src_type": 2}, 30 * 4 + 16),
    ("softmax", {"h": 3, "w": 5, "c": 17, "dst_type": 2}, 30 * 4 + 16),
    ("norm", {"h": 3, "w": 5, "c": 17, "src_type": 2, "dst_type": 2}, 30 * 3 + 16),
    ("topk", {"h": 3, "w": 5, "c": 17, "k": 4, "src_type": 2}, 30 * 4 + 16),
    ("copy", {"n0": 8, "n1": 3, "src_s0": 2, "dst_s0": 2, "element_bytes": 2}, 2 + 16),  # 48 bytes by 32
    ("copy", {"n0": 7, "n1": 3, "src_s0": 2, "dst_s0": 2, "element_bytes": 2}, 6 + 16),
    ("copy", {"n0": 8, "n1": 3, "src_s0": 4, "dst_s0": 2, "element_bytes": 2}, 6 + 16),
])  # fmt: skip
def test_vector_instructions(mnemonic: str, fields: dict[str, int], cycles: int) -> None:
    assert cost("ommatid-1k", mnemonic, **fields) == cycles


def test_a_narrow_read_port_slows_map_down() -> None:
    b = Builder(replace(load_target(), port_vx_read_bytes_per_cycle=16))
    b.map(h=1, w=10, c=32, binary=1, operand_c=1)
    b.map(h=1, w=10, c=32, binary=1, operand_c=1, b_type=2)  # three bytes an element, 16 bits at half rate
    b.map(h=1, w=10, c=32, source=1, binary=1, operand_c=1, b_type=2)
    bytes_ = [10 * 32 * each for each in (2, 3, 2)]
    assert cost_cycles(b.stream(), b.target).tolist() == [each // 16 + 16 for each in bytes_]


@pytest.mark.parametrize(
    "kinds, passes, weight_bytes", [((1, 1), 1, 1), ((2, 1), 2, 1), ((2, 0), 2, 1), ((2, 2), 4, 2)]
)
@pytest.mark.parametrize("out_w", [1, 3, 40])
def test_passes_of_a_convolution(kinds: tuple[int, int], passes: int, weight_bytes: int, out_w: int) -> None:
    """16 x 16 weights of 1k come over 32 bytes a cycle, 4 pixels of 16 bytes over 64: a cycle a set and pass."""
    fields = {
        "kh": 3,
        "kw": 2,
        "out_w": out_w,
        "cin": 17,
        "cout": 33,
        "src_type": kinds[0],
        "weights_type": kinds[1],
    }
    weights = 16 * 16 * weight_bytes // 32
    tiles = 3 * (3 * 2 * 2)
    assert cost("ommatid-1k", "conv", **fields) == tiles * max(passes * up(out_w, 4), weights) + weights + 8


@pytest.mark.parametrize("kind, row", [(1, 3), (2, 6)])
def test_passes_of_a_depthwise_convolution(kind: int, row: int) -> None:
    """8 pixels of 16 channels: 10 columns, 160 bytes over 64 a cycle for int8, twice that for int16; 3 taps a pass."""
    fields = {"kh": 3, "kw": 3, "out_h": 2, "out_w": 9, "c": 20, "src_type": kind}
    assert cost("ommatid-1k", "dwconv", **fields) == 2 * 2 * 2 * 3 * row + 16


@st.composite
def sides(draw: st.DrawFn) -> tuple[int, list[int], list[int], int]:
    """(run, counts, strides, address) of one side of a DMA."""
    run = draw(st.one_of(st.integers(1, 40), st.integers(1, 300)))
    counts = [draw(st.integers(1, n)) for n in (70, 5, 3)]
    choice = st.one_of(st.integers(-400, 400), st.sampled_from([0, 16, 64, -64, run]))
    return run, counts, [draw(choice) for _ in counts], draw(st.integers(0, 200)) + 40_000


def blocks(run: int, counts: list[int], strides: list[int], address: int, size: int) -> tuple[int, int]:
    """(bytes of all repetitions, blocks touched run by run); loops that go on where the run ends, or of no step, join it."""
    moved = run * math.prod(counts)
    loops = [(n, s) for n, s in zip(counts, strides, strict=True) if n > 1]
    while loops and loops[0][1] in (run, 0):
        n, s = loops.pop(0)
        run *= n if s else 1
    starts = np.array([address])
    for n, s in loops:
        starts = np.add.outer(starts, np.arange(n) * s).ravel()
    return moved, sum(range(a // size, (a + run - 1) // size + 1).__len__() for a in starts.tolist())


@settings(deadline=None, max_examples=200)
@given(sides(), st.sampled_from(["load", "store", "fill"]), st.sampled_from([8, 16, 64]))
def test_dma(side: Any, mnemonic: str, port: int) -> None:
    run, counts, strides, address = side
    ports = {"port_load_bytes_per_cycle": port, "port_store_bytes_per_cycle": port}
    b = Builder(replace(load_target(), **ports))
    names = {"load": ("src", "dst"), "store": ("dst", "src"), "fill": ("", "dst")}[mnemonic]
    fields = {f"n{i}": n for i, n in enumerate(counts, 1)}
    for name in filter(None, names):
        fields |= {name: address} | {f"{name}_s{i}": s for i, s in enumerate(strides, 1)}
    b.emit(mnemonic, run=run, **fields)
    size, words = blocks(run, counts, strides, address, 16)
    assert cost_cycles(b.stream(), b.target).tolist() == [max(words, up(size, port))]
    _, bursts = blocks(run, counts, strides, address, 64)
    assert dram_bytes(b.stream(), b.target).tolist() == [0 if mnemonic == "fill" else bursts * 64]


def test_send_takes_a_cycle_for_each_word_of_either_side() -> None:
    b = Builder()
    b.send(run=48, src=0, dst=0)
    b.send(run=48, src=8, dst=0)
    b.send(run=48, src=0, dst=8)
    b.send(run=8, n1=5, src_s1=8, dst_s1=64)  # 40 bytes are read in 3 words and written in 5
    assert cost_cycles(b.stream(), b.target).tolist() == [3, 4, 4, 5]


def test_macs() -> None:
    b = Builder()
    b.conv(kh=3, kw=2, out_h=4, out_w=5, cin=7, cout=9)
    b.end()
    b.dwconv(kh=3, kw=2, out_h=4, out_w=5, c=7)
    assert macs(b.stream(), b.target).tolist() == [3 * 2 * 4 * 5 * 7 * 9, 0, 3 * 2 * 4 * 5 * 7]
