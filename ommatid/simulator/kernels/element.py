"""``map``: the element-wise chain of the vector engine."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from ommatid.simulator.kernels.arithmetic import fma, number, quantised


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def map_(r: Any, sram: Any, acc: Any) -> None:
    """Execute a ``map`` record; ``acc`` is int32."""
    f = r[0]
    channels = np.int64(f.c)
    row = np.empty(channels, np.uint8)
    values = parameters(r, sram)
    table1 = sram[np.int64(f.table1) : np.int64(f.table1) + 256 * np.int64(f.table1_on)].copy()
    table2 = sram[np.int64(f.table2) : np.int64(f.table2) + 256 * np.int64(f.table2_on)].copy()
    for y in range(np.int64(f.h)):
        for x in range(np.int64(f.w)):
            at = np.int64(f.src) + y * np.int64(f.src_row) + x * np.int64(f.src_pixel)
            if f.source == 0:
                take_bytes(sram[at : at + channels], row)
            elif f.source == 1:
                requantise_row(acc[at // 4 : at // 4 + channels], values, f, row)
            else:
                affine_row(sram[at : at + channels], values, f, row)
            if f.table1_on:
                look_up(table1, row)
            second = np.int64(f.operand) + y * np.int64(f.operand_row) + x * np.int64(f.operand_pixel)
            if f.binary == 1:
                add_row(sram, second, f, row)
            elif f.binary == 2:
                multiply_row(sram, second, f, row)
            if f.table2_on:
                look_up(table2, row)
            to = np.int64(f.dst) + y * np.int64(f.dst_row) + x * np.int64(f.dst_pixel)
            take_bytes(row, sram[to : to + channels])


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def parameters(r: Any, sram: Any) -> Any:
    """A copy of the parameters of step 1 as float32 [2 or 3, channel]; none where the source is bytes."""
    f = r[0]
    kinds = 0 if f.source == 0 else 1 + np.int64(f.source)
    size, first = 4 * kinds * np.int64(f.c), np.int64(f.parameters)
    return sram[first : first + size].copy().view(np.float32).reshape(kinds, np.int64(f.c))


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def take_bytes(source: Any, out: Any) -> None:
    """out = source, byte by byte."""
    for c in range(len(out)):
        out[c] = source[c]


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def requantise_row(sums: Any, values: Any, f: Any, row: Any) -> None:
    """Step 1, source acc: (acc + bias) * multiplier for the channels of one pixel."""
    bias, multiplier = values[0].view(np.int32), values[1]
    zero, signed = np.int32(f.mid_zero), np.int32(f.mid_type)
    for c in range(len(row)):
        t = np.float32(np.int32(sums[c] + bias[c])) * multiplier[c]
        row[c] = quantised(t, zero, signed)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def affine_row(source: Any, values: Any, f: Any, row: Any) -> None:
    """Step 1, source affine: fma(q - z, multiplier by sign, shift)."""
    shift, positive, negative = values[0], values[1], values[2]
    src_zero, src_signed = np.int32(f.src_zero), np.int32(f.src_type)
    zero, signed = np.int32(f.mid_zero), np.int32(f.mid_type)
    for c in range(len(row)):
        x = np.int32(number(source[c], src_signed) - src_zero)
        slope = positive[c] if x >= 0 else negative[c]
        row[c] = quantised(fma(np.float32(x), slope, shift[c]), zero, signed)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def add_row(sram: Any, at: int, f: Any, row: Any) -> None:
    """Step 3, add, in onnxruntime's order: the zero point is part of the sum that is rounded."""
    step, channels = np.int64(f.operand_c), len(row)
    other = sram[at : at + (channels - 1) * step + 1]
    a_signed, b_signed, r_signed = np.int32(f.a_type), np.int32(f.b_type), np.int32(f.r_type)
    shift = np.int32(128 * r_signed)
    for c in range(channels):
        a, b = np.float32(number(row[c], a_signed)), np.float32(number(other[c * step], b_signed))
        t = fma(a, f.a_factor, fma(b, f.b_factor, f.addend))
        clamped = min(max(t, np.float32(-shift)), np.float32(255 - shift))
        row[c] = np.uint8(np.int32(np.rint(clamped)) & 255)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def multiply_row(sram: Any, at: int, f: Any, row: Any) -> None:
    """Step 3, mul: the exact product, scaled."""
    step, channels = np.int64(f.operand_c), len(row)
    other = sram[at : at + (channels - 1) * step + 1]
    a_zero, a_signed = np.int32(f.a_zero), np.int32(f.a_type)
    b_zero, b_signed = np.int32(f.b_zero), np.int32(f.b_type)
    zero, signed = np.int32(f.r_zero), np.int32(f.r_type)
    for c in range(channels):
        a = np.int32(number(row[c], a_signed) - a_zero)
        b = np.int32(number(other[c * step], b_signed) - b_zero)
        row[c] = quantised(np.float32(np.int32(a * b)) * f.a_factor, zero, signed)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def look_up(table: Any, row: Any) -> None:
    """Steps 2 and 4: every byte replaced by its entry."""
    for c in range(len(row)):
        row[c] = table[row[c]]
