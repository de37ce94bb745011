"""``map``: the element-wise chain of the vector engine."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from ommatid.simulator.kernels.arithmetic import fma, number, quantised


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def requantise_row(acc: Any, at: int, bias: Any, parameters: Any, channels: int, zero: int, signed: int, row: Any) -> None:
    """Step 1, source acc: (acc + bias) * multiplier for the channels of one pixel."""
    for c in range(channels):
        t = np.float32(np.int32(acc[at + c] + bias[c])) * parameters[channels + c]
        row[c] = quantised(t, zero, signed)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def affine_row(
    sram: Any, at: int, parameters: Any, channels: int, source: Any, zero: int, signed: int, row: Any
) -> None:
    """Step 1, source affine: fma(q - z, multiplier, shift); ``source`` is (zero, signed) of the input."""
    for c in range(channels):
        x = number(sram[at + c], source[1]) - source[0]
        slope = parameters[channels + c] if x >= 0 else parameters[2 * channels + c]
        row[c] = quantised(fma(np.float32(x), slope, parameters[c]), zero, signed)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def add_row(sram: Any, at: int, step: int, channels: int, f: Any, row: Any) -> None:
    """Step 3, add, in onnxruntime's order."""
    for c in range(channels):
        a = np.float32(number(row[c], np.int32(f.a_type)))
        b = np.float32(number(sram[at + c * step], np.int32(f.b_type)))
        t = fma(a, f.a_factor, fma(b, f.b_factor, f.addend))
        low = np.float32(-128 * np.int32(f.r_type))
        row[c] = np.uint8(np.int32(np.rint(min(max(t, low), low + np.float32(255)))) & 255)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def multiply_row(sram: Any, at: int, step: int, channels: int, f: Any, row: Any) -> None:
    """Step 3, mul: the exact product, scaled."""
    for c in range(channels):
        a = number(row[c], np.int32(f.a_type)) - np.int32(f.a_zero)
        b = number(sram[at + c * step], np.int32(f.b_type)) - np.int32(f.b_zero)
        row[c] = quantised(np.float32(a * b) * f.a_factor, np.int32(f.r_zero), np.int32(f.r_type))


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def look_up(table: Any, channels: int, row: Any) -> None:
    """Steps 2 and 4: every byte replaced by its entry."""
    for c in range(channels):
        row[c] = table[row[c]]


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def map_(r: Any, sram: Any, acc: Any) -> None:
    """Execute a ``map`` record; ``acc`` is int32."""
    f = r[0]
    h, w, channels = np.int64(f.h), np.int64(f.w), np.int64(f.c)
    row = np.empty(channels, np.uint8)
    size = np.int64(8 if f.source == 1 else 12) * channels
    first = np.int64(f.parameters)
    parameters = np.zeros(3 * channels, np.float32)
    if f.source > 0:
        parameters[: size // 4] = sram[first : first + size].copy().view(np.float32)
    bias = parameters.view(np.int32)
    source = (np.int32(f.src_zero), np.int32(f.src_type))
    zero, signed = np.int32(f.mid_zero), np.int32(f.mid_type)
    for y in range(h):
        for x in range(w):
            at = np.int64(f.src) + y * np.int64(f.src_row) + x * np.int64(f.src_pixel)
            if f.source == 0:
                row[:] = sram[at : at + channels]
            elif f.source == 1:
                requantise_row(acc, at // 4, bias, parameters, channels, zero, signed, row)
            else:
                affine_row(sram, at, parameters, channels, source, zero, signed, row)
            if f.table1_on:
                look_up(sram[np.int64(f.table1) : np.int64(f.table1) + 256], channels, row)
            if f.binary > 0:
                second = np.int64(f.operand) + y * np.int64(f.operand_row) + x * np.int64(f.operand_pixel)
                if f.binary == 1:
                    add_row(sram, second, np.int64(f.operand_c), channels, f, row)
                else:
                    multiply_row(sram, second, np.int64(f.operand_c), channels, f, row)
            if f.table2_on:
                look_up(sram[np.int64(f.table2) : np.int64(f.table2) + 256], channels, row)
            to = np.int64(f.dst) + y * np.int64(f.dst_row) + x * np.int64(f.dst_pixel)
            sram[to : to + channels] = row
