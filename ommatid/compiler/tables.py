"""Tables of the vector engine: of bytes, an entry for each; of 16-bit numbers, 513 entries to interpolate between.

A table is uint8 or int16 [256], indexed by a byte's bits, or int16 [513]. Entries are rounded to nine decimals of an
output step before they are rounded to a code, so that the last bits of a math library cannot show.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ommatid.isa.elements import TABLES
from ommatid.isa.program import Quantization

Array = np.ndarray[Any, Any]

STEP = 128  # numbers from an entry of a 16-bit table to the next
FINE = 4  # places between two entries at which interpolation is judged


def codes(quantization: Quantization) -> Array:
    """The integers that a table has entries for (float64 [256] or [513])."""
    if quantization.kind.bytes == 2:
        return np.arange(-32768.0, 32768.0 + 1, STEP)
    return np.arange(256, dtype=np.uint8).view(quantization.dtype).astype(np.float64)


def real(codes: Array, quantization: Quantization) -> Array:
    """What codes stand for (float64)."""
    return (codes - quantization.zero_point) * float(np.float32(quantization.scale))


def real_entries(table: Array, quantization: Quantization) -> Array:
    """What the entries of a table that gives codes of this quantisation stand for (float64)."""
    return real(table.view(quantization.dtype).astype(np.float64), quantization)


def to_codes(values: Array, quantization: Quantization) -> Array:
    """Real values as codes: int16, or the bits of bytes (uint8)."""
    kind = quantization.kind
    steps = np.nan_to_num(values / float(np.float32(quantization.scale)), nan=0.0, posinf=1e9, neginf=-1e9)
    rounded = np.clip(np.rint(np.round(steps, 9)) + quantization.zero_point, kind.low, kind.high)
    found = rounded.astype(quantization.dtype)
    return found if kind.bytes == 2 else found.view(np.uint8)


def number(table: Array) -> int:
    """The number of its kind in ``elements.TABLES``."""
    return next(i for i, t in enumerate(TABLES) if (len(table), table.itemsize) == (t.entries, t.entry_bytes))


def changes_nothing(table: Array) -> bool:
    """Whether every code becomes itself."""
    if len(table) == 256:
        return table.dtype == np.uint8 and bool((table == np.arange(256)).all())
    return bool((table == np.minimum(np.arange(-32768, 32769, STEP), 32767)).all())


def look_up(table: Array, data: Array) -> Array:
    """What a table makes of elements: the bits of bytes (uint8), or int16."""
    if len(table) == 256:
        return np.asarray(table[data.view(np.uint8)])
    u = data.astype(np.int64) + 32768
    entries, low, fraction = table.astype(np.int64), u >> 7, u & (STEP - 1)
    rise = (entries[low + 1] - entries[low]) * fraction
    return np.asarray((entries[low] + ((rise + STEP // 2) >> 7)).astype(np.int16))


def then(first: Array, second: Array) -> Array | None:
    """One table that does what two do one after the other; None if there is none."""
    return look_up(second, first) if len(first) == 256 else None


def steps_off(function: Callable[[Array], Array], table: Array, quantization: Quantization) -> float:
    """How far interpolation is from a function of codes, at most, in steps of the output (of 513 entries)."""
    places = np.arange(-32768.0, 32768.0, STEP / FINE)
    wanted = np.nan_to_num(
        function(places) / float(np.float32(quantization.scale)), nan=0.0, posinf=1e9, neginf=-1e9
    )
    wanted = np.clip(wanted, quantization.kind.low, quantization.kind.high)
    return float(np.abs(look_up(table, places.astype(np.int16)) - wanted).max())
