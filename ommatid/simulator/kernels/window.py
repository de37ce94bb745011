"""``pool`` and ``resize``: several input pixels make an output pixel."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from ommatid.simulator.kernels.arithmetic import number, quantised


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def pool(r: Any, sram: Any) -> None:
    """Execute a ``pool`` record."""
    f = r[0]
    channels = np.int64(f.c)
    kh, kw = np.int64(f.kh), np.int64(f.kw)
    values, row = np.empty(channels, np.int32), np.empty(channels, np.uint8)
    for y in range(np.int64(f.out_h)):
        for x in range(np.int64(f.out_w)):
            values[:] = 0 if f.kind else -128 * np.int64(f.src_type)
            taps = 0
            for tap in range(kh * kw):
                line = y * np.int64(f.stride_h) - np.int64(f.pad_top) + tap // kw * np.int64(f.dilation_h)
                column = x * np.int64(f.stride_w) - np.int64(f.pad_left) + tap % kw * np.int64(f.dilation_w)
                if 0 <= line < np.int64(f.in_h) and 0 <= column < np.int64(f.in_w):
                    taps += 1
                    at = np.int64(f.src) + line * np.int64(f.src_row) + column * np.int64(f.src_pixel)
                    take_tap(sram[at : at + channels], f, values)
            if f.kind:
                average_row(values, kh * kw if f.count_pad else max(taps, 1), f, row)
            else:
                row[:] = values.astype(np.uint8)
            to = np.int64(f.dst) + y * np.int64(f.dst_row) + x * np.int64(f.dst_pixel)
            sram[to : to + channels] = row


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def take_tap(source: Any, f: Any, values: Any) -> None:
    """One tap into the sums (average, less the zero point) or the maxima."""
    zero, signed = np.int32(f.src_zero), np.int32(f.src_type)
    if f.kind:
        for c in range(len(values)):
            values[c] += np.int32(number(source[c], signed) - zero)
    else:
        for c in range(len(values)):
            values[c] = max(values[c], number(source[c], signed))


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def average_row(values: Any, taps: int, f: Any, row: Any) -> None:
    """The mean of the sums of ``taps`` elements, in the output's scale."""
    zero, signed, count = np.int32(f.dst_zero), np.int32(f.dst_type), np.float32(taps)
    for c in range(len(row)):
        scaled = np.float32(np.float32(values[c]) * f.factor)
        row[c] = quantised(np.float32(scaled / count), zero, signed)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def resize(r: Any, sram: Any) -> None:
    """Execute a ``resize`` record."""
    f = r[0]
    channels, out_h, out_w = np.int64(f.c), np.int64(f.out_h), np.int64(f.out_w)
    rows = sram[np.int64(f.rows) : np.int64(f.rows) + out_h * 8].copy().view(np.uint16)
    columns = sram[np.int64(f.columns) : np.int64(f.columns) + out_w * 8].copy().view(np.uint16)
    sums, row = np.empty(channels, np.int32), np.empty(channels, np.uint8)
    zero, signed = np.int32(f.dst_zero), np.int32(f.dst_type)
    for y in range(out_h):
        for x in range(out_w):
            sums[:] = 0
            for tap in range(4):
                i, j = tap // 2, tap % 2
                weight = np.int64(rows[4 * y + 2 + i]) * np.int64(columns[4 * x + 2 + j])
                line, column = np.int64(rows[4 * y + i]), np.int64(columns[4 * x + j])
                if weight:
                    at = np.int64(f.src) + line * np.int64(f.src_row) + column * np.int64(f.src_pixel)
                    add_weighted(sram[at : at + channels], weight, f, sums)
            for c in range(channels):
                row[c] = quantised(np.float32(sums[c]) * f.factor, zero, signed)
            to = np.int64(f.dst) + y * np.int64(f.dst_row) + x * np.int64(f.dst_pixel)
            sram[to : to + channels] = row


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def add_weighted(source: Any, weight: int, f: Any, sums: Any) -> None:
    """sums += (source - zero point) * weight."""
    zero, signed, factor = np.int32(f.src_zero), np.int32(f.src_type), np.int32(weight)
    for c in range(len(sums)):
        sums[c] += np.int32(np.int32(number(source[c], signed) - zero) * factor)
