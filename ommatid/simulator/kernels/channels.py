"""``reduce``, ``softmax``, ``lrn`` and ``norm``: sums over pixels or over the channels of a pixel."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import kernel
from ommatid.simulator.kernels.arithmetic import flip, limits, number, numbers, quantise, quantised
from ommatid.simulator.kernels.vectors import LANES, floats, fma, ints, load, load_floats, store


@kernel
def reduce(f: Any, sram: Any, acc: Any) -> None:
    """Execute a ``reduce`` record; ``acc`` is int32."""
    c, bits, zero = np.int64(f.c), flip(f.src_type), ints(np.int32(f.src_zero))
    for block in range(0, c, LANES):
        left, to = c - block, np.int64(f.acc) // 4 + block
        total = load(acc, to, left) if f.accumulate else ints(np.int32(0))
        for y in range(np.int64(f.h)):
            at = np.int64(f.src) + y * np.int64(f.src_row) + block
            for _ in range(np.int64(f.w)):
                total = total + (numbers(load(sram, at, left), bits) - zero)
                at += np.int64(f.src_pixel)
        store(acc, to, left, total)


@kernel
def softmax(f: Any, sram: Any) -> None:
    """Execute a ``softmax`` record."""
    channels = np.int64(f.c)
    table = sram[np.int64(f.table) : np.int64(f.table) + 1024].copy().view(np.uint32)
    for y in range(np.int64(f.h)):
        for x in range(np.int64(f.w)):
            at = np.int64(f.src) + y * np.int64(f.src_row) + x * np.int64(f.src_pixel)
            to = np.int64(f.dst) + y * np.int64(f.dst_row) + x * np.int64(f.dst_pixel)
            softmax_row(sram[at : at + channels], table, f, sram[to : to + channels])


@kernel
def softmax_row(source: Any, table: Any, f: Any, out: Any) -> None:
    """The softmax of one pixel's channels; ``table`` holds the exponentials of 0, -1, ... -255."""
    zero, signed = np.int32(f.dst_zero), np.int32(f.dst_type)
    flip = np.uint8(128 * (1 - np.int64(f.src_type)))  # bytes in the order of the numbers, as int8
    top = np.int8(-128)
    for c in range(len(source)):
        top = max(top, np.int8(source[c] ^ flip))
    total = np.uint64(0)
    for c in range(len(source)):
        total += np.uint64(table[np.int64(top) - np.int64(np.int8(source[c] ^ flip))])
    for c in range(len(out)):
        e = np.float32(table[np.int64(top) - np.int64(np.int8(source[c] ^ flip))])
        t = np.float32(e / np.float32(total)) * f.factor
        out[c] = quantised(np.float32(t), zero, signed)


@kernel
def lrn(f: Any, sram: Any) -> None:
    """Execute an ``lrn`` record."""
    channels = np.int64(f.c)
    values, squares = np.empty(channels, np.int32), np.empty(channels, np.int64)
    zero, signed = np.int32(f.src_zero), np.int32(f.src_type)
    for y in range(np.int64(f.h)):
        for x in range(np.int64(f.w)):
            at = np.int64(f.src) + y * np.int64(f.src_row) + x * np.int64(f.src_pixel)
            to = np.int64(f.dst) + y * np.int64(f.dst_row) + x * np.int64(f.dst_pixel)
            source = sram[at : at + channels]
            for c in range(channels):
                values[c] = number(source[c], signed) - zero
            sum_squares(values, np.int64(f.size), squares)
            lrn_row(values, squares, f, sram[to : to + channels])


@kernel
def sum_squares(values: Any, size: int, squares: Any) -> None:
    """The sum of squares in each channel's window: (size - 1) // 2 channels below to size // 2 above."""
    count = len(values)
    below, above = (size - 1) // 2, size // 2
    total = np.int64(0)
    for d in range(min(above, count)):
        total += np.int64(values[d]) * np.int64(values[d])
    for c in range(count):
        if c + above < count:
            total += np.int64(values[c + above]) * np.int64(values[c + above])
        if c - below - 1 >= 0:
            total -= np.int64(values[c - below - 1]) * np.int64(values[c - below - 1])
        squares[c] = total


@kernel
def lrn_row(values: Any, squares: Any, f: Any, out: Any) -> None:
    """values / (bias + alpha * squares) ** 0.75, in the output's scale."""
    zero, signed = np.int32(f.dst_zero), np.int32(f.dst_type)
    for c in range(len(out)):
        u = np.float32(np.float32(f.alpha * np.float32(squares[c])) + f.bias)
        root = np.sqrt(u)
        power = np.float32(root * np.sqrt(root))
        scaled = np.float32(np.float32(values[c]) * f.factor)
        out[c] = quantised(np.float32(scaled / power), zero, signed)


@kernel
def norm(f: Any, sram: Any) -> None:
    """Execute a ``norm`` record."""
    c, zero, bits = np.int64(f.c), np.int32(f.src_zero), flip(f.src_type)
    per, out = np.int64(f.parameters), limits(f.dst_zero, f.dst_type)
    for y in range(np.int64(f.h)):
        for x in range(np.int64(f.w)):
            at = np.int64(f.src) + y * np.int64(f.src_row) + x * np.int64(f.src_pixel)
            to = np.int64(f.dst) + y * np.int64(f.dst_row) + x * np.int64(f.dst_pixel)
            total, squares = sums(sram[at : at + c], zero, np.int32(f.src_type))
            if not f.centre:
                total = np.int64(0)
            spread = np.float32(c * squares - total * total)
            root = floats(np.sqrt(np.float32(spread + f.epsilon)))
            less, times = ints(np.int32(total)), ints(np.int32(c))
            for block in range(0, c, LANES):
                left = c - block
                d = times * (numbers(load(sram, at + block, left), bits) - ints(zero)) - less
                scale = load_floats(sram, per + 4 * block, left)
                shift = load_floats(sram, per + 4 * (c + block), left)
                store(sram, to + block, left, quantise(fma(floats(d) / root, scale, shift), out))


@kernel
def sums(source: Any, zero: int, signed: int) -> Any:
    """The sum of a pixel's numbers less the zero point, and that of their squares (int64)."""
    total, squares = np.int64(0), np.int64(0)
    for c in range(len(source)):
        v = np.int64(number(source[c], signed) - zero)
        total += v
        squares += v * v
    return total, squares
