"""``dwconv``: every channel by its own int8 kernel, into int32 or 48-bit accumulators, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import inlined, kernel
from ommatid.simulator.kernels.arithmetic import (
    columns,
    fetch,
    flip,
    nothing,
    numbers,
    portion,
    rows,
    size,
    step,
    taps,
)
from ommatid.simulator.kernels.vectors import LANES, ints, load, load_longs, store, store_longs, wrapped


@kernel
def dwconv(f: Any, sram: Any, acc: Any, part: int, parts: int, wide: Any) -> None:
    """Execute a part of a ``dwconv`` record; ``acc`` is int32."""
    c, kh, kw, out_w = np.int64(f.c), np.int64(f.kh), np.int64(f.kw), np.int64(f.out_w)
    down, right, row, pixel = (
        np.int64(f.dilation_h),
        np.int64(f.dilation_w),
        np.int64(f.src_row),
        np.int64(f.src_pixel),
    )
    tap, acc_pixel, element = np.int64(f.weights_tap), np.int64(f.acc_pixel) // 4, size(f.src_type, wide)
    bits, zero = flip(f.src_type, wide), ints(np.int32(f.src_zero))
    signed, weights = flip(1, wide), np.int64(f.weights)
    first, last = portion(np.int64(f.out_h) * out_w, part, parts)
    for block in range(0, c, LANES):
        left = c - block
        for y in range(*rows(first, last, out_w)):
            line = y * np.int64(f.stride_h) - np.int64(f.pad_top)
            top, bottom = taps(line, down, kh, np.int64(f.in_h))
            for x in range(*columns(first, last, y, out_w)):
                column = x * np.int64(f.stride_w) - np.int64(f.pad_left)
                begin, end = taps(column, right, kw, np.int64(f.in_w))
                at = np.int64(f.acc) // 4 + (y * out_w + x) * acc_pixel
                total = held(acc, at, block, left, wide) if f.accumulate else nothing(wide)
                for i in range(top, bottom):
                    source = (
                        np.int64(f.src) + (line + i * down) * row + column * pixel + block * step(element)
                    )
                    for j in range(begin, end):
                        value = numbers(fetch(sram, source + j * right * pixel, left, element), bits) - zero
                        at_weights = weights + (i * kw + j) * tap + block
                        total = total + value * numbers(load(sram, at_weights, left), signed)
                hold(acc, at, block, left, total, wide)


@inlined
def held(acc: Any, at: int, channel: int, count: int, wide: Any) -> Any:
    """The accumulators of some channels of a pixel whose first is at ``at`` (of int32)."""
    if wide is None:
        return load(acc, at + channel, count)
    return load_longs(acc, at + 2 * channel, count)


@inlined
def hold(acc: Any, at: int, channel: int, count: int, total: Any, wide: Any) -> None:
    """Put sums there, wrapped."""
    if wide is None:
        store(acc, at + channel, count, total)
    else:
        store_longs(acc, at + 2 * channel, count, wrapped(total))
