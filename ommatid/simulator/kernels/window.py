"""``pool`` and ``resize``: several input pixels make an output pixel."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import kernel
from ommatid.simulator.kernels.arithmetic import flip, limits, numbers, quantise, taps
from ommatid.simulator.kernels.vectors import LANES, floats, ints, load, most, store


@kernel
def pool(f: Any, sram: Any) -> None:
    """Execute a ``pool`` record."""
    c, kh, kw = np.int64(f.c), np.int64(f.kh), np.int64(f.kw)
    down, right, row, pixel = (
        np.int64(f.dilation_h),
        np.int64(f.dilation_w),
        np.int64(f.src_row),
        np.int64(f.src_pixel),
    )
    bits, zero, out = flip(f.src_type), ints(np.int32(f.src_zero)), limits(f.dst_zero, f.dst_type)
    average, factor, least = f.kind == 1, floats(f.factor), ints(np.int32(-128 * np.int32(f.src_type)))
    for block in range(0, c, LANES):
        left = c - block
        for y in range(np.int64(f.out_h)):
            line = y * np.int64(f.stride_h) - np.int64(f.pad_top)
            top, bottom = taps(line, down, kh, np.int64(f.in_h))
            for x in range(np.int64(f.out_w)):
                column = x * np.int64(f.stride_w) - np.int64(f.pad_left)
                begin, end = taps(column, right, kw, np.int64(f.in_w))
                total = ints(np.int32(0)) if average else least
                for i in range(top, bottom):
                    source = np.int64(f.src) + (line + i * down) * row + column * pixel + block
                    for j in range(begin, end):
                        value = numbers(load(sram, source + j * right * pixel, left), bits)
                        total = total + (value - zero) if average else most(total, value)
                if average:
                    inside = max((bottom - top) * (end - begin), 1)
                    count = floats(np.float32(kh * kw if f.count_pad else inside))
                    total = quantise(floats(total) * factor / count, out)
                to = np.int64(f.dst) + y * np.int64(f.dst_row) + x * np.int64(f.dst_pixel) + block
                store(sram, to, left, total)


@kernel
def resize(f: Any, sram: Any) -> None:
    """Execute a ``resize`` record."""
    c, out_h, out_w = np.int64(f.c), np.int64(f.out_h), np.int64(f.out_w)
    rows = sram[np.int64(f.rows) : np.int64(f.rows) + out_h * 8].view(np.uint16)
    columns = sram[np.int64(f.columns) : np.int64(f.columns) + out_w * 8].view(np.uint16)
    bits, zero, out = flip(f.src_type), ints(np.int32(f.src_zero)), limits(f.dst_zero, f.dst_type)
    factor = floats(f.factor)
    for block in range(0, c, LANES):
        left = c - block
        for y in range(np.int64(f.out_h)):
            for x in range(out_w):
                total = ints(np.int32(0))
                for tap in range(4):
                    i, j = tap // 2, tap % 2
                    weight = np.int32(rows[4 * y + 2 + i]) * np.int32(columns[4 * x + 2 + j])
                    if weight:
                        line, column = np.int64(rows[4 * y + i]), np.int64(columns[4 * x + j])
                        at = (
                            np.int64(f.src)
                            + line * np.int64(f.src_row)
                            + column * np.int64(f.src_pixel)
                            + block
                        )
                        total = total + (numbers(load(sram, at, left), bits) - zero) * ints(np.int32(weight))
                to = np.int64(f.dst) + y * np.int64(f.dst_row) + x * np.int64(f.dst_pixel) + block
                store(sram, to, left, quantise(floats(total) * factor, out))
