"""``pool`` and ``resize``: several input pixels make an output pixel."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import inlined, kernel
from ommatid.simulator.kernels.arithmetic import (
    fetch,
    flip,
    limits,
    nothing,
    numbers,
    put,
    quantise,
    sign,
    size,
    step,
    taps,
)
from ommatid.simulator.kernels.vectors import LANES, floats, ints, longs, most


@kernel
def pool(f: Any, sram: Any, wide: Any) -> None:
    """Execute a ``pool`` record."""
    c, kh, kw = np.int64(f.c), np.int64(f.kh), np.int64(f.kw)
    down, right, row, pixel = (
        np.int64(f.dilation_h),
        np.int64(f.dilation_w),
        np.int64(f.src_row),
        np.int64(f.src_pixel),
    )
    element, written = size(f.src_type, wide), size(f.dst_type, wide)
    bits, zero, out = flip(f.src_type, wide), ints(np.int32(f.src_zero)), limits(f.dst_zero, f.dst_type, wide)
    average, factor, least = f.kind == 1, floats(f.factor), ints(-sign(f.src_type, wide))
    for block in range(0, c, LANES):
        left = c - block
        for y in range(np.int64(f.out_h)):
            line = y * np.int64(f.stride_h) - np.int64(f.pad_top)
            top, bottom = taps(line, down, kh, np.int64(f.in_h))
            for x in range(np.int64(f.out_w)):
                column = x * np.int64(f.stride_w) - np.int64(f.pad_left)
                begin, end = taps(column, right, kw, np.int64(f.in_w))
                total, result = nothing(wide), least
                for i in range(top, bottom):
                    source = (
                        np.int64(f.src) + (line + i * down) * row + column * pixel + block * step(element)
                    )
                    for j in range(begin, end):
                        value = numbers(fetch(sram, source + j * right * pixel, left, element), bits)
                        if average:
                            total = total + (value - zero)
                        else:
                            result = most(result, value)
                if average:
                    inside = max((bottom - top) * (end - begin), 1)
                    count = floats(np.float32(kh * kw if f.count_pad else inside))
                    result = quantise(floats(total) * factor / count, out)
                to = np.int64(f.dst) + y * np.int64(f.dst_row) + x * np.int64(f.dst_pixel)
                put(sram, to + block * step(written), left, written, result)


@kernel
def resize(f: Any, sram: Any, wide: Any) -> None:
    """Execute a ``resize`` record."""
    c, out_h, out_w = np.int64(f.c), np.int64(f.out_h), np.int64(f.out_w)
    rows = sram[np.int64(f.rows) : np.int64(f.rows) + out_h * 8].view(np.uint16)
    columns = sram[np.int64(f.columns) : np.int64(f.columns) + out_w * 8].view(np.uint16)
    element, written = size(f.src_type, wide), size(f.dst_type, wide)
    bits, zero, out = flip(f.src_type, wide), ints(np.int32(f.src_zero)), limits(f.dst_zero, f.dst_type, wide)
    factor = floats(f.factor)
    for block in range(0, c, LANES):
        left = c - block
        for y in range(np.int64(f.out_h)):
            for x in range(out_w):
                total = nothing(wide)
                for tap in range(4):
                    i, j = tap // 2, tap % 2
                    weight = np.int32(rows[4 * y + 2 + i]) * np.int32(columns[4 * x + 2 + j])
                    if weight:
                        line, column = np.int64(rows[4 * y + i]), np.int64(columns[4 * x + j])
                        at = (
                            np.int64(f.src)
                            + line * np.int64(f.src_row)
                            + column * np.int64(f.src_pixel)
                            + block * step(element)
                        )
                        value = numbers(fetch(sram, at, left, element), bits) - zero
                        total = total + weighted(value, weight, wide)
                to = np.int64(f.dst) + y * np.int64(f.dst_row) + x * np.int64(f.dst_pixel)
                put(sram, to + block * step(written), left, written, quantise(floats(total) * factor, out))


@inlined
def weighted(value: Any, weight: int, wide: Any) -> Any:
    """A vector times a number below 2 ** 23."""
    if wide is None:
        return value * ints(np.int32(weight))
    return longs(value) * longs(np.int64(weight))
