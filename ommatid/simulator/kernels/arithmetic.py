"""Arithmetic that the kernels share: elements as numbers, requantisation, taps of a window.

An element is held as its bits, 0..255 or 0..65535. Kernels are compiled twice: with ``wide`` None, a type of its own,
for instructions whose elements are all bytes, so that nothing is asked and sums are int32; else for elements of any
size, which is then a number, and sums of 64 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import inlined, kernel
from ommatid.isa.elements import TYPES
from ommatid.simulator.kernels.vectors import (
    floats,
    ints,
    least,
    load,
    load_shorts,
    longs,
    most,
    rint,
    store,
    store_shorts,
)

_SIZES = tuple(kind.bytes for kind in TYPES)
_MASKS = tuple(kind.high - kind.low for kind in TYPES)
_SIGNS = tuple(-kind.low for kind in TYPES)


@inlined
def size(kind: int, wide: Any) -> Any:
    """Bytes of an element of a type; None if all are of one byte."""
    if wide is None:
        return None
    return np.int64(_SIZES[kind])


@inlined
def step(size: Any) -> Any:
    """Bytes from an element to the next."""
    if size is None:
        return np.int64(1)
    return size


@inlined
def nothing(wide: Any) -> Any:
    """A vector of sums before anything is added."""
    if wide is None:
        return ints(np.int32(0))
    return longs(np.int64(0))


@inlined
def fetch(sram: Any, at: int, count: int, size: Any) -> Any:
    """A vector of elements that begin at a byte."""
    if size is None:
        return load(sram, at, count)
    if size == 2:
        return load_shorts(sram, at, count)
    return load(sram, at, count)


@inlined
def put(sram: Any, at: int, count: int, size: Any, value: Any) -> None:
    """Write a vector of elements from a byte on."""
    if size is None:
        store(sram, at, count, value)
    elif size == 2:
        store_shorts(sram, at, count, value)
    else:
        store(sram, at, count, value)


@inlined
def fetch_one(sram: Any, at: int, size: Any) -> Any:
    """The element at a byte."""
    if size is None:
        return np.int32(sram[at])
    return np.int32(sram[at]) if size == 1 else np.int32(sram[at]) | np.int32(sram[at + 1]) << np.int32(8)


@inlined
def put_one(sram: Any, at: int, size: Any, value: int) -> None:
    """Write an element at a byte."""
    sram[at] = np.uint8(value & 255)
    if size is not None and size == 2:
        sram[at + 1] = np.uint8(value >> 8 & 255)


@kernel
def sign(kind: int, wide: Any) -> Any:
    """What ``number`` needs of a type: the bit that means a negative number."""
    return np.int32(_SIGNS[1]) * np.int32(kind) if wide is None else np.int32(_SIGNS[kind])


@kernel
def number(bits: int, sign: int) -> Any:
    """The value of an element."""
    return np.int32((np.int32(bits) ^ sign) - sign)


@kernel
def bounds(zero: int, kind: int, wide: Any) -> Any:
    """What ``quantised`` needs of a type: least and greatest number less the zero point (float32), that point, a mask."""
    low = -sign(kind, wide) - np.int32(zero)
    mask = np.int32(_MASKS[0] if wide is None else _MASKS[kind])
    return np.float32(low), np.float32(low + mask), np.int32(zero), mask


@kernel
def quantised(t: float, bounds: Any) -> Any:
    """The element of float32 ``t``: clamped to the type's range, rounded half to even, zero point added."""
    low, high, zero, mask = bounds
    return (np.int32(np.rint(min(max(t, low), high))) + zero) & mask


@kernel
def limits(zero: int, kind: int, wide: Any) -> Any:
    """``bounds`` in vectors."""
    low, high, zero, mask = bounds(zero, kind, wide)
    return floats(low), floats(high), ints(np.int32(zero)), ints(np.int32(mask))


@kernel
def quantise(t: Any, limits: Any) -> Any:
    """As ``quantised``, for a vector."""
    low, high, zero, mask = limits
    return (rint(least(most(t, low), high)) + zero) & mask


@kernel
def flip(kind: int, wide: Any) -> Any:
    """``sign`` in a vector."""
    return ints(sign(kind, wide))


@kernel
def numbers(data: Any, flip: Any) -> Any:
    """The values of a vector of elements."""
    return (data ^ flip) - flip


@kernel
def portion(count: int, part: int, parts: int) -> Any:
    """First and end of a part of ``count`` things."""
    return count * part // parts, count * (part + 1) // parts


@kernel
def rows(begin: int, end: int, width: int) -> Any:
    """First and end of the rows of an image that pixels ``begin`` to ``end`` lie in."""
    return begin // width, (end + width - 1) // width


@kernel
def columns(begin: int, end: int, row: int, width: int) -> Any:
    """First and end of those columns of a row that pixels ``begin`` to ``end`` lie in."""
    return max(begin - row * width, 0), min(end - row * width, width)


@kernel
def taps(first: int, step: int, taps: int, size: int) -> Any:
    """The bounds of the taps, ``step`` apart from ``first`` on, that lie in 0..size-1."""
    begin = 0 if first >= 0 else (step - 1 - first) // step
    end = 0 if first >= size else (size - 1 - first) // step + 1
    return min(begin, taps), max(min(begin, taps), min(end, taps))
