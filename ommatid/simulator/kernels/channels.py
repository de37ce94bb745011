"""``reduce``, ``softmax``, ``lrn`` and ``norm``: sums over pixels or over the channels of a pixel."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import inlined, kernel
from ommatid.simulator.kernels.arithmetic import (
    bounds,
    fetch,
    fetch_one,
    flip,
    limits,
    number,
    numbers,
    put,
    put_one,
    quantise,
    quantised,
    sign,
    size,
    step,
)
from ommatid.simulator.kernels.vectors import LANES, floats, fma, ints, load, load_floats, longs, store


@kernel
def reduce(f: Any, sram: Any, acc: Any, wide: Any) -> None:
    """Execute a ``reduce`` record; ``acc`` is int32, and sums wrap."""
    c, bits, zero, element = (
        np.int64(f.c),
        flip(f.src_type, wide),
        ints(np.int32(f.src_zero)),
        size(f.src_type, wide),
    )
    for block in range(0, c, LANES):
        left, to = c - block, np.int64(f.acc) // 4 + block
        total = load(acc, to, left) if f.accumulate else ints(np.int32(0))
        for y in range(np.int64(f.h)):
            at = np.int64(f.src) + y * np.int64(f.src_row) + block * step(element)
            for _ in range(np.int64(f.w)):
                total = total + (numbers(fetch(sram, at, left, element), bits) - zero)
                at += np.int64(f.src_pixel)
        store(acc, to, left, total)


@kernel
def softmax(f: Any, sram: Any, wide: Any) -> None:
    """Execute a ``softmax`` record."""
    channels, element, written = np.int64(f.c), size(f.src_type, wide), size(f.dst_type, wide)
    table = sram[np.int64(f.table) : np.int64(f.table) + 1024 * step(element)].copy().view(np.uint32)
    bit, out, factor = sign(f.src_type, wide), bounds(f.dst_zero, f.dst_type, wide), f.factor
    values = np.empty(channels, np.int64)
    for y in range(np.int64(f.h)):
        for x in range(np.int64(f.w)):
            at = np.int64(f.src) + y * np.int64(f.src_row) + x * np.int64(f.src_pixel)
            to = np.int64(f.dst) + y * np.int64(f.dst_row) + x * np.int64(f.dst_pixel)
            source, result = (
                sram[at : at + channels * step(element)],
                sram[to : to + channels * step(written)],
            )
            top = np.int64(-32768)
            for c in range(channels):
                values[c] = number(fetch_one(source, c * step(element), element), bit)
                top = max(top, values[c])
            total = np.uint64(0)
            for c in range(channels):
                values[c] = exponential(table, top - values[c], element)
                total += np.uint64(values[c])
            for c in range(channels):
                t = np.float32(np.float32(values[c]) / np.float32(total)) * factor
                put_one(result, c * step(written), written, quantised(np.float32(t), out))


@inlined
def exponential(table: Any, steps: int, size: Any) -> Any:
    """The exponential of 0 or fewer steps, by one table or, of 16-bit numbers, by two."""
    if size is None:
        return np.int64(table[steps])
    if size == 1:
        return np.int64(table[steps])
    product = np.uint64(table[steps >> 8]) * np.uint64(table[256 + (steps & 255)])
    return np.int64(product >> np.uint64(32))


@kernel
def lrn(f: Any, sram: Any, wide: Any) -> None:
    """Execute an ``lrn`` record."""
    channels, element, written = np.int64(f.c), size(f.src_type, wide), size(f.dst_type, wide)
    values, squares = np.empty(channels, np.int32), np.empty(channels, np.int64)
    zero, bit, out = np.int32(f.src_zero), sign(f.src_type, wide), bounds(f.dst_zero, f.dst_type, wide)
    for y in range(np.int64(f.h)):
        for x in range(np.int64(f.w)):
            at = np.int64(f.src) + y * np.int64(f.src_row) + x * np.int64(f.src_pixel)
            to = np.int64(f.dst) + y * np.int64(f.dst_row) + x * np.int64(f.dst_pixel)
            source, result = (
                sram[at : at + channels * step(element)],
                sram[to : to + channels * step(written)],
            )
            for c in range(channels):
                values[c] = number(fetch_one(source, c * step(element), element), bit) - zero
            sum_squares(values, np.int64(f.size), squares)
            for c in range(channels):
                t = normalised(values[c], squares[c], f)
                put_one(result, c * step(written), written, quantised(t, out))


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
def normalised(value: int, squares: int, f: Any) -> Any:
    """value / (bias + alpha * squares) ** 0.75, in the output's scale (float32)."""
    u = np.float32(np.float32(f.alpha * np.float32(squares)) + f.bias)
    root = np.sqrt(u)
    power = np.float32(root * np.sqrt(root))
    return np.float32(np.float32(np.float32(value) * f.factor) / power)


@kernel
def norm(f: Any, sram: Any, wide: Any) -> None:
    """Execute a ``norm`` record."""
    c, zero, bits, element = (
        np.int64(f.c),
        np.int32(f.src_zero),
        flip(f.src_type, wide),
        size(f.src_type, wide),
    )
    per, out, written = np.int64(f.parameters), limits(f.dst_zero, f.dst_type, wide), size(f.dst_type, wide)
    for y in range(np.int64(f.h)):
        for x in range(np.int64(f.w)):
            at = np.int64(f.src) + y * np.int64(f.src_row) + x * np.int64(f.src_pixel)
            to = np.int64(f.dst) + y * np.int64(f.dst_row) + x * np.int64(f.dst_pixel)
            source = sram[at : at + c * step(element)]
            total, squares = sums(source, zero, sign(f.src_type, wide), element)
            if not f.centre:
                total = np.int64(0)
            spread = np.float32(c * squares - total * total)
            root = floats(np.sqrt(np.float32(spread + f.epsilon)))
            for block in range(0, c, LANES):
                left = c - block
                v = numbers(fetch(sram, at + block * step(element), left, element), bits) - ints(zero)
                d = centred(v, c, total, wide)
                scale = load_floats(sram, per + 4 * block, left)
                shift = load_floats(sram, per + 4 * (c + block), left)
                result = quantise(fma(floats(d) / root, scale, shift), out)
                put(sram, to + block * step(written), left, written, result)


@inlined
def centred(v: Any, c: int, total: int, wide: Any) -> Any:
    """c * v - total of a vector."""
    if wide is None:
        return ints(np.int32(c)) * v - ints(np.int32(total))
    return longs(c) * longs(v) - longs(total)


@kernel
def sums(source: Any, zero: int, sign: int, size: Any) -> Any:
    """The sum of a pixel's numbers less the zero point, and that of their squares (int64)."""
    total, squares = np.int64(0), np.int64(0)
    for at in range(0, len(source), step(size)):
        v = np.int64(number(fetch_one(source, at, size), sign) - zero)
        total += v
        squares += v * v
    return total, squares
