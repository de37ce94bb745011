"""Arithmetic that the kernels share: requantisation, bytes as numbers, taps of a window."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import kernel
from ommatid.simulator.kernels.vectors import floats, ints, least, most, rint


@kernel
def number(byte: int, signed: int) -> Any:
    """The value of a byte (0..255) as int8 (``signed`` 1) or uint8."""
    flip = np.int32(128 * signed)
    return np.int32((np.int32(byte) ^ flip) - flip)


@kernel
def quantised(t: float, zero: int, signed: int) -> Any:
    """The byte of float32 ``t``: clamped to the type's range, rounded half to even, zero point added."""
    low = np.float32(-128 * signed - zero)
    high = np.float32(255 - 128 * signed - zero)
    clamped = min(max(t, low), high)
    return np.uint8((np.int32(np.rint(clamped)) + zero) & 255)


@kernel
def limits(zero: int, signed: int) -> Any:
    """What ``quantise`` needs of a type: least and greatest number less the zero point, the zero point; vectors."""
    low = np.int32(-128 * np.int32(signed) - np.int32(zero))
    return floats(np.float32(low)), floats(np.float32(low + 255)), ints(np.int32(zero))


@kernel
def quantise(t: Any, limits: Any) -> Any:
    """As ``quantised``, for a vector: bytes as Ints 0..255."""
    low, high, zero = limits
    return (rint(least(most(t, low), high)) + zero) & ints(np.int32(255))


@kernel
def flip(signed: int) -> Any:
    """The vector that ``numbers`` needs of a type."""
    return ints(np.int32(128 * np.int32(signed)))


@kernel
def numbers(data: Any, flip: Any) -> Any:
    """The values of a vector of bytes (Ints 0..255)."""
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
