"""``dwconv``: every channel by its own int8 kernel, into int32 accumulators, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import kernel
from ommatid.simulator.kernels.arithmetic import columns, flip, numbers, portion, rows, taps
from ommatid.simulator.kernels.vectors import LANES, ints, load, store


@kernel
def dwconv(f: Any, sram: Any, acc: Any, part: int, parts: int) -> None:
    """Execute a part of a ``dwconv`` record; ``acc`` is int32."""
    c, kh, kw, out_w = np.int64(f.c), np.int64(f.kh), np.int64(f.kw), np.int64(f.out_w)
    down, right, row, pixel = (
        np.int64(f.dilation_h),
        np.int64(f.dilation_w),
        np.int64(f.src_row),
        np.int64(f.src_pixel),
    )
    tap, step = np.int64(f.weights_tap), np.int64(f.acc_pixel) // 4
    bits, zero = flip(f.src_type), ints(np.int32(f.src_zero))
    signed, weights = flip(1), np.int64(f.weights)
    first, last = portion(np.int64(f.out_h) * out_w, part, parts)
    for block in range(0, c, LANES):
        left = c - block
        for y in range(*rows(first, last, out_w)):
            line = y * np.int64(f.stride_h) - np.int64(f.pad_top)
            top, bottom = taps(line, down, kh, np.int64(f.in_h))
            for x in range(*columns(first, last, y, out_w)):
                column = x * np.int64(f.stride_w) - np.int64(f.pad_left)
                begin, end = taps(column, right, kw, np.int64(f.in_w))
                at = np.int64(f.acc) // 4 + (y * out_w + x) * step + block
                total = load(acc, at, left) if f.accumulate else ints(np.int32(0))
                for i in range(top, bottom):
                    source = np.int64(f.src) + (line + i * down) * row + column * pixel + block
                    for j in range(begin, end):
                        value = numbers(load(sram, source + j * right * pixel, left), bits) - zero
                        at_weights = weights + (i * kw + j) * tap + block
                        total = total + value * numbers(load(sram, at_weights, left), signed)
                store(acc, at, left, total)
