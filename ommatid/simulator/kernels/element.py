"""``map``: the element-wise chain of the vector engine."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.simulator.kernels.arithmetic import flip, limits, numbers, quantise, share
from ommatid.simulator.kernels.compiled import kernel
from ommatid.simulator.kernels.vectors import (
    LANES,
    floats,
    fma,
    ints,
    load,
    load_floats,
    load_ints,
    look_up,
    pick,
    store,
)


@kernel
def map_(f: Any, sram: Any, acc: Any, part: int, parts: int) -> None:
    """Execute one part of a ``map`` record; ``acc`` is int32."""
    c, w, source, operand, dst = shape(f)
    h0, h1 = share(f.h, part, parts) if f.h >= parts else (np.int64(0), np.int64(f.h))
    w0, w1 = (np.int64(0), w) if f.h >= parts else share(w, part, parts)
    for y in range(h0, h1):
        for block in range(0, c, LANES):
            src = (
                np.int64(f.src) + y * np.int64(f.src_row) + (4 if f.source == 1 else 1) * block + w0 * source
            )
            second = np.int64(f.operand) + y * np.int64(f.operand_row) + f.operand_c * block + w0 * operand
            to = np.int64(f.dst) + y * np.int64(f.dst_row) + block + w0 * dst
            column(f, sram, acc, block, c - block, w1 - w0, src, source, second, operand, to, dst)


@kernel
def shape(f: Any) -> Any:
    """(channels, pixels in a row, bytes between pixels of source, operand and destination).

    Rows of bytes that lie densely, and are treated alike, are taken sixteen by sixteen.
    """
    c, w = np.int64(f.c), np.int64(f.w)
    source, operand, dst = np.int64(f.src_pixel), np.int64(f.operand_pixel), np.int64(f.dst_pixel)
    dense = f.source == 0 and source == c and dst == c
    dense = dense and (f.binary == 0 or (f.operand_c == 1 and operand == c))
    if dense and w * c % LANES == 0:
        return np.int64(LANES), w * c // LANES, np.int64(LANES), np.int64(LANES), np.int64(LANES)
    return c, w, source, operand, dst


@kernel
def column(
    f: Any, sram: Any, acc: Any, block: int, left: int, count: int, src: int, source: int, second: int, operand: int,
    to: int, dst: int,
) -> None:  # fmt: skip
    """The pixels of a row, channels ``block`` on; ``left`` channels are left."""
    c, kind, binary = np.int64(f.c), np.int64(f.source), np.int64(f.binary)
    table1_on, table2_on, operand_c = f.table1_on == 1, f.table2_on == 1, f.operand_c == 1
    table1, table2 = sram[np.int64(f.table1) :], sram[np.int64(f.table2) :]
    none = floats(np.float32(0))
    bias, multiplier, shift, negative = ints(np.int32(0)), none, none, none
    at = np.int64(f.parameters) + 4 * block
    if kind == 1:
        bias, multiplier = load_ints(sram, at, left), load_floats(sram, at + 4 * c, left)
    elif kind == 2:
        shift, multiplier = load_floats(sram, at, left), load_floats(sram, at + 4 * c, left)
        negative = load_floats(sram, at + 8 * c, left)
    mid, src_bits, src_zero = limits(f.mid_zero, f.mid_type), flip(f.src_type), ints(np.int32(f.src_zero))
    a_bits, b_bits = flip(f.a_type), flip(f.b_type)
    a_factor, b_factor, addend = floats(f.a_factor), floats(f.b_factor), floats(f.addend)
    a_zero, b_zero = ints(np.int32(f.a_zero)), ints(np.int32(f.b_zero))
    result = limits(0 if binary == 1 else np.int64(f.r_zero), f.r_type)
    for _ in range(count):
        if kind == 0:
            data = load(sram, src, left)
        elif kind == 1:
            data = quantise(floats(load(acc, src // 4, left) + bias) * multiplier, mid)
        else:
            x = numbers(load(sram, src, left), src_bits) - src_zero
            data = quantise(fma(floats(x), pick(x, multiplier, negative), shift), mid)
        if table1_on:
            data = look_up(table1, data)
        if binary:
            other = load(sram, second, left) if operand_c else ints(np.int32(sram[second]))
            a, b = numbers(data, a_bits), numbers(other, b_bits)
            if binary == 1:
                t = fma(floats(a), a_factor, fma(floats(b), b_factor, addend))
            else:
                t = floats((a - a_zero) * (b - b_zero)) * a_factor
            data = quantise(t, result)
        if table2_on:
            data = look_up(table2, data)
        store(sram, to, left, data)
        src, second, to = src + source, second + operand, to + dst
