"""Numbers, float32 steps and quantisation as docs/isa.md, section Arithmetic, defines them."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

TYPES = (np.dtype("u1"), np.dtype("i1"), np.dtype("<i2"))  # u8, i8, i16: what a field ``..._type`` says


def fl(value: Any) -> Array:
    """Rounded to float32. Of float32 operands an operation inside has already been rounded, once."""
    return np.asarray(value).astype(np.float32)


def fma(a: Array, b: Array, c: Array) -> Array:
    """``fl(a * b + c)`` of finite float32 arrays, rounded once.

    The product is exact in float64. The sum is rounded to float64 by rounding to odd: where it is inexact, of
    the two neighbours of the true sum the one with an odd last bit. Rounding that to float32 gives what
    rounding the true sum gives, as float64 has more than two bits to spare.
    """
    product = a.astype(np.float64) * b.astype(np.float64)
    addend = np.broadcast_to(c, product.shape).astype(np.float64)
    total = product + addend
    part = total - product  # two-sum: error is exact
    error = (product - (total - part)) + (addend - part)
    is_even = (total.view(np.int64) & 1) == 0
    odd = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where((error != 0) & is_even, odd, total).astype(np.float32)


def number(data: Array, kind: int) -> Array:
    """The values of elements when their bits are read as type ``kind``, int64."""
    assert data.dtype.itemsize == TYPES[kind].itemsize, "a step reads the size that the one before it gives"
    return data.view(TYPES[kind]).astype(np.int64)


def quantise(t: Array, zero: int, kind: int) -> Array:
    """``Q(t, zero, kind)`` of float32 values: the elements, of their type."""
    limits = np.iinfo(TYPES[kind])
    clamped = np.minimum(np.maximum(t, np.float32(limits.min - zero)), np.float32(limits.max - zero))
    return (np.rint(clamped).astype(np.int64) + zero).astype(TYPES[kind])


def wrapped(values: Array, acc_bytes: int) -> Array:
    """int64 values as accumulators of this size hold them: their low 32 or 48 bits, sign-extended."""
    spare = 64 - {4: 32, 8: 48}[acc_bytes]
    return values << spare >> spare
