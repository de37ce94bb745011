"""``map``: the element-wise chain of the vector engine."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import kernel
from ommatid.simulator.kernels.arithmetic import columns, flip, limits, numbers, portion, quantise, rows
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
    """Execute a part of a ``map`` record; ``acc`` is int32."""
    c, w, src_pixel, operand_pixel, dst_pixel = shape(f)
    kind, binary, wide = np.int64(f.source), np.int64(f.binary), 4 if f.source == 1 else 1
    table1_on, table2_on, operand_c = f.table1_on == 1, f.table2_on == 1, f.operand_c == 1
    table1, table2 = sram[np.int64(f.table1) :], sram[np.int64(f.table2) :]
    mid, src_bits, src_zero = limits(f.mid_zero, f.mid_type), flip(f.src_type), ints(np.int32(f.src_zero))
    a_bits, b_bits = flip(f.a_type), flip(f.b_type)
    a_factor, b_factor, addend = floats(f.a_factor), floats(f.b_factor), floats(f.addend)
    a_zero, b_zero = ints(np.int32(f.a_zero)), ints(np.int32(f.b_zero))
    result = limits(0 if binary == 1 else np.int64(f.r_zero), f.r_type)
    first_pixel, end_pixel = portion(np.int64(f.h) * w, part, parts)
    for y in range(*rows(first_pixel, end_pixel, w)):
        begin, end = columns(first_pixel, end_pixel, y, w)
        src = np.int64(f.src) + y * np.int64(f.src_row) + begin * src_pixel
        second = np.int64(f.operand) + y * np.int64(f.operand_row) + begin * operand_pixel
        to = np.int64(f.dst) + y * np.int64(f.dst_row) + begin * dst_pixel
        for _ in range(begin, end):
            for block in range(0, c, LANES):
                left, first, per = c - block, src + wide * block, np.int64(f.parameters) + 4 * block
                if kind == 0:
                    data = load(sram, first, left)
                elif kind == 1:
                    total = load(acc, first // 4, left) + load_ints(sram, per, left)
                    data = quantise(floats(total) * load_floats(sram, per + 4 * c, left), mid)
                else:
                    x = numbers(load(sram, first, left), src_bits) - src_zero
                    slopes = load_floats(sram, per + 4 * c, left), load_floats(sram, per + 8 * c, left)
                    slope = pick(x, slopes[0], slopes[1])
                    data = quantise(fma(floats(x), slope, load_floats(sram, per, left)), mid)
                if table1_on:
                    data = look_up(table1, data)
                if binary:
                    other = load(sram, second + block, left) if operand_c else ints(np.int32(sram[second]))
                    a, b = numbers(data, a_bits), numbers(other, b_bits)
                    if binary == 1:
                        t = fma(floats(a), a_factor, fma(floats(b), b_factor, addend))
                    else:
                        t = floats((a - a_zero) * (b - b_zero)) * a_factor
                    data = quantise(t, result)
                if table2_on:
                    data = look_up(table2, data)
                store(sram, to + block, left, data)
            src, second, to = src + src_pixel, second + operand_pixel, to + dst_pixel


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
