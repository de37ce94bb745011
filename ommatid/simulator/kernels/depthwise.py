"""``dwconv``: every channel by its own int8 kernel, into int32 accumulators, exactly."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def dwconv(r: Any, sram: Any, acc: Any) -> None:
    """Execute a ``dwconv`` record; ``acc`` is int32."""
    f = r[0]
    channels = np.int64(f.c)
    flip = 128 * np.int64(f.src_type)
    shift = flip + np.int64(f.src_zero)
    weights = unpack(r, sram)
    first, step = np.int64(f.acc) // 4, np.int64(f.acc_pixel) // 4
    for p in range(np.int64(f.out_h) * np.int64(f.out_w)):
        y = (p // np.int64(f.out_w)) * np.int64(f.stride_h) - np.int64(f.pad_top)
        x = (p % np.int64(f.out_w)) * np.int64(f.stride_w) - np.int64(f.pad_left)
        sums = acc[first + p * step : first + p * step + channels]
        if not f.accumulate:
            sums[:] = 0
        for tap in range(len(weights)):
            line = y + (tap // np.int64(f.kw)) * np.int64(f.dilation_h)
            column = x + (tap % np.int64(f.kw)) * np.int64(f.dilation_w)
            if 0 <= line < np.int64(f.in_h) and 0 <= column < np.int64(f.in_w):
                at = np.int64(f.src) + line * np.int64(f.src_row) + column * np.int64(f.src_pixel)
                add_products(sram[at : at + channels], flip, shift, weights[tap], sums)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def unpack(r: Any, sram: Any) -> Any:
    """The weights as int32 [tap, channel]."""
    f = r[0]
    taps, channels = np.int64(f.kh) * np.int64(f.kw), np.int64(f.c)
    weights = np.empty((taps, channels), np.int32)
    for tap in range(taps):
        at = np.int64(f.weights) + tap * np.int64(f.weights_tap)
        source = sram[at : at + channels]
        for c in range(channels):
            weights[tap, c] = np.int8(source[c])
    return weights


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def add_products(source: Any, flip: int, shift: int, weights: Any, sums: Any) -> None:
    """sums += (source - zero point) * weights; a byte's number is (byte ^ flip) - flip."""
    bits, less = np.int32(flip), np.int32(shift)
    for c in range(len(sums)):
        sums[c] += np.int32(np.int32((np.int32(source[c]) ^ bits) - less) * weights[c])
