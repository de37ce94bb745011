"""``map``: the element-wise chain of the vector engine."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import inlined, kernel
from ommatid.isa.elements import TABLES
from ommatid.simulator.kernels.arithmetic import (
    columns,
    fetch,
    fetch_one,
    flip,
    limits,
    numbers,
    portion,
    put,
    quantise,
    rows,
    size,
    step,
)
from ommatid.simulator.kernels.vectors import (
    LANES,
    floats,
    fma,
    interpolate,
    ints,
    load,
    load_floats,
    load_ints,
    load_longs,
    look_up,
    look_up_shorts,
    pick,
    wrapped,
)

_BYTES, _WIDE = (next(i for i, t in enumerate(TABLES) if t.name == name) for name in ("bytes", "wide"))
_GIVES = tuple(table.entry_bytes for table in TABLES)


@kernel
def map_(f: Any, sram: Any, acc: Any, part: int, parts: int, wide: Any) -> None:
    """Execute a part of a ``map`` record; ``acc`` is int32."""
    element, other_element, written = size(f.src_type, wide), size(f.b_type, wide), output_size(f, wide)
    c, w, src_pixel, operand_pixel, dst_pixel = shape(f, element, other_element, written)
    kind, binary = np.int64(f.source), np.int64(f.binary)
    table1_on, table2_on, operand_c = np.int64(f.table1_on), np.int64(f.table2_on), f.operand_c == 1
    table1, table2 = sram[np.int64(f.table1) :], sram[np.int64(f.table2) :]
    mid, src_bits, src_zero = (
        limits(f.mid_zero, f.mid_type, wide),
        flip(f.src_type, wide),
        ints(np.int32(f.src_zero)),
    )
    a_bits, b_bits = flip(f.a_type, wide), flip(f.b_type, wide)
    a_factor, b_factor, addend = floats(f.a_factor), floats(f.b_factor), floats(f.addend)
    a_zero, b_zero = ints(np.int32(f.a_zero)), ints(np.int32(f.b_zero))
    result = limits(0 if binary == 1 else np.int64(f.r_zero), f.r_type, wide)
    first_pixel, end_pixel = portion(np.int64(f.h) * w, part, parts)
    for y in range(*rows(first_pixel, end_pixel, w)):
        begin, end = columns(first_pixel, end_pixel, y, w)
        src = np.int64(f.src) + y * np.int64(f.src_row) + begin * src_pixel
        second = np.int64(f.operand) + y * np.int64(f.operand_row) + begin * operand_pixel
        to = np.int64(f.dst) + y * np.int64(f.dst_row) + begin * dst_pixel
        for _ in range(begin, end):
            for block in range(0, c, LANES):
                left, per = c - block, np.int64(f.parameters) + 4 * block
                if kind == 0:
                    data = fetch(sram, src + block * step(element), left, element)
                elif kind == 1:
                    total = biased(acc, src, block, load_ints(sram, per, left), left, f.acc_bytes, wide)
                    data = quantise(total * load_floats(sram, per + 4 * c, left), mid)
                else:
                    x = numbers(fetch(sram, src + block * step(element), left, element), src_bits) - src_zero
                    slopes = load_floats(sram, per + 4 * c, left), load_floats(sram, per + 8 * c, left)
                    slope = pick(x, slopes[0], slopes[1])
                    data = quantise(fma(floats(x), slope, load_floats(sram, per, left)), mid)
                if table1_on:
                    data = looked_up(table1, data, table1_on, wide)
                if binary:
                    other = ints(fetch_one(sram, second, other_element))
                    if operand_c:
                        other = fetch(sram, second + block * step(other_element), left, other_element)
                    a, b = numbers(data, a_bits), numbers(other, b_bits)
                    if binary == 1:
                        t = fma(floats(a), a_factor, fma(floats(b), b_factor, addend))
                    else:
                        t = floats((a - a_zero) * (b - b_zero)) * a_factor
                    data = quantise(t, result)
                if table2_on:
                    data = looked_up(table2, data, table2_on, wide)
                put(sram, to + block * step(written), left, written, data)
            src, second, to = src + src_pixel, second + operand_pixel, to + dst_pixel


@inlined
def biased(acc: Any, src: int, channel: int, bias: Any, count: int, width: int, wide: Any) -> Any:
    """Accumulators of a pixel that begins at byte ``src``, from a channel on, and their bias: Floats."""
    if wide is None:
        return floats(load(acc, src // 4 + channel, count) + bias)
    if width == 8:
        return floats(wrapped(load_longs(acc, src // 4 + 2 * channel, count) + bias))
    return floats(load(acc, src // 4 + channel, count) + bias)


@inlined
def looked_up(table: Any, data: Any, kind: int, wide: Any) -> Any:
    """A vector of elements by a table of this kind."""
    if wide is None:
        return look_up(table, data)
    if kind == _BYTES:
        return look_up(table, data)
    return look_up_shorts(table, data) if kind == _WIDE else interpolate(table, data)


@kernel
def output_size(f: Any, wide: Any) -> Any:
    """Bytes of what the last step gives; None if all are of one byte."""
    if wide is None:
        return None
    if f.table2_on:
        return np.int64(_GIVES[f.table2_on])
    if f.binary:
        return size(f.r_type, wide)
    if f.table1_on:
        return np.int64(_GIVES[f.table1_on])
    return size(f.mid_type if f.source else f.src_type, wide)


@kernel
def shape(f: Any, element: Any, other: Any, written: Any) -> Any:
    """(channels, pixels in a row, bytes between pixels of source, operand and destination).

    Rows of elements that lie densely, and are treated alike, are taken sixteen by sixteen.
    """
    c, w = np.int64(f.c), np.int64(f.w)
    source, operand, dst = np.int64(f.src_pixel), np.int64(f.operand_pixel), np.int64(f.dst_pixel)
    dense = f.source == 0 and source == c * step(element) and dst == c * step(written)
    dense = dense and (f.binary == 0 or (f.operand_c == 1 and operand == c * step(other)))
    if dense and w * c % LANES == 0:
        pixel = np.int64(LANES)
        return pixel, w * c // LANES, pixel * step(element), pixel * step(other), pixel * step(written)
    return c, w, source, operand, dst
