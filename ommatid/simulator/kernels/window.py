"""``pool``, ``reduce``, ``resize``, ``softmax`` and ``lrn``: the vector engine's other instructions."""

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
    zero, signed = np.int32(f.src_zero), np.int32(f.src_type)
    values = np.empty(channels, np.int32)
    for y in range(np.int64(f.out_h)):
        for x in range(np.int64(f.out_w)):
            values[:] = 0 if f.kind else -255 - 255
            taps = 0
            for i in range(np.int64(f.kh)):
                line = y * np.int64(f.stride_h) - np.int64(f.pad_top) + i * np.int64(f.dilation_h)
                for j in range(np.int64(f.kw)):
                    column = x * np.int64(f.stride_w) - np.int64(f.pad_left) + j * np.int64(f.dilation_w)
                    if 0 <= line < np.int64(f.in_h) and 0 <= column < np.int64(f.in_w):
                        taps += 1
                        at = np.int64(f.src) + line * np.int64(f.src_row) + column * np.int64(f.src_pixel)
                        if f.kind:
                            for c in range(channels):
                                values[c] += number(sram[at + c], signed) - zero
                        else:
                            for c in range(channels):
                                values[c] = max(values[c], number(sram[at + c], signed))
            to = np.int64(f.dst) + y * np.int64(f.dst_row) + x * np.int64(f.dst_pixel)
            if f.kind:
                count = np.float32(np.int64(f.kh) * np.int64(f.kw) if f.count_pad else max(taps, 1))
                for c in range(channels):
                    t = np.float32(np.float32(values[c]) * f.factor) / count
                    sram[to + c] = quantised(np.float32(t), np.int32(f.dst_zero), np.int32(f.dst_type))
            else:
                lowest = -128 * np.int32(f.src_type)
                for c in range(channels):
                    sram[to + c] = np.uint8(max(values[c], lowest) & 255)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def reduce(r: Any, sram: Any, acc: Any) -> None:
    """Execute a ``reduce`` record; ``acc`` is int32."""
    f = r[0]
    channels = np.int64(f.c)
    zero, signed = np.int32(f.src_zero), np.int32(f.src_type)
    sums = np.zeros(channels, np.int32)
    for y in range(np.int64(f.h)):
        for x in range(np.int64(f.w)):
            at = np.int64(f.src) + y * np.int64(f.src_row) + x * np.int64(f.src_pixel)
            for c in range(channels):
                sums[c] += number(sram[at + c], signed) - zero
    first = np.int64(f.acc) // 4
    for c in range(channels):
        acc[first + c] = sums[c] + (acc[first + c] if f.accumulate else 0)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def resize(r: Any, sram: Any) -> None:
    """Execute a ``resize`` record."""
    f = r[0]
    channels, out_h, out_w = np.int64(f.c), np.int64(f.out_h), np.int64(f.out_w)
    zero, signed = np.int32(f.src_zero), np.int32(f.src_type)
    rows = sram[np.int64(f.rows) : np.int64(f.rows) + out_h * 8].copy().view(np.uint16)
    columns = sram[np.int64(f.columns) : np.int64(f.columns) + out_w * 8].copy().view(np.uint16)
    sums = np.empty(channels, np.int32)
    for y in range(out_h):
        for x in range(out_w):
            sums[:] = 0
            for i in range(2):
                for j in range(2):
                    weight = np.int32(rows[4 * y + 2 + i]) * np.int32(columns[4 * x + 2 + j])
                    if weight:
                        at = (
                            np.int64(f.src)
                            + np.int64(rows[4 * y + i]) * np.int64(f.src_row)
                            + np.int64(columns[4 * x + j]) * np.int64(f.src_pixel)
                        )
                        for c in range(channels):
                            sums[c] += (number(sram[at + c], signed) - zero) * weight
            to = np.int64(f.dst) + y * np.int64(f.dst_row) + x * np.int64(f.dst_pixel)
            for c in range(channels):
                t = np.float32(sums[c]) * f.factor
                sram[to + c] = quantised(t, np.int32(f.dst_zero), np.int32(f.dst_type))


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def softmax(r: Any, sram: Any) -> None:
    """Execute a ``softmax`` record."""
    f = r[0]
    channels = np.int64(f.c)
    signed = np.int32(f.src_type)
    table = sram[np.int64(f.table) : np.int64(f.table) + 1024].copy().view(np.uint32)
    for y in range(np.int64(f.h)):
        for x in range(np.int64(f.w)):
            at = np.int64(f.src) + y * np.int64(f.src_row) + x * np.int64(f.src_pixel)
            to = np.int64(f.dst) + y * np.int64(f.dst_row) + x * np.int64(f.dst_pixel)
            top = np.int32(-255)
            for c in range(channels):
                top = max(top, number(sram[at + c], signed))
            total = np.uint64(0)
            for c in range(channels):
                total += np.uint64(table[top - number(sram[at + c], signed)])
            for c in range(channels):
                e = np.float32(table[top - number(sram[at + c], signed)])
                t = np.float32(e / np.float32(total)) * f.factor
                sram[to + c] = quantised(np.float32(t), np.int32(f.dst_zero), np.int32(f.dst_type))


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def lrn(r: Any, sram: Any) -> None:
    """Execute an ``lrn`` record."""
    f = r[0]
    channels, size = np.int64(f.c), np.int64(f.size)
    zero, signed = np.int32(f.src_zero), np.int32(f.src_type)
    below, above = (size - 1) // 2, size // 2
    values = np.empty(channels, np.int32)
    for y in range(np.int64(f.h)):
        for x in range(np.int64(f.w)):
            at = np.int64(f.src) + y * np.int64(f.src_row) + x * np.int64(f.src_pixel)
            to = np.int64(f.dst) + y * np.int64(f.dst_row) + x * np.int64(f.dst_pixel)
            for c in range(channels):
                values[c] = number(sram[at + c], signed) - zero
            for c in range(channels):
                total = np.int64(0)
                for d in range(max(c - below, 0), min(c + above, channels - 1) + 1):
                    total += np.int64(values[d]) * np.int64(values[d])
                u = np.float32(np.float32(f.alpha * np.float32(total)) + f.bias)
                root = np.sqrt(u)
                t = np.float32(np.float32(values[c]) * f.factor) / np.float32(root * np.sqrt(root))
                sram[to + c] = quantised(np.float32(t), np.int32(f.dst_zero), np.int32(f.dst_type))
