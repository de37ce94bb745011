"""Types of elements, and the tables of ``map`` that lead from one to another: one row each, all sizes derive from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ElementType:
    """What an element of an image is: its bytes, and the numbers it may be."""

    name: str
    dtype: str  # NumPy's name of it
    bytes: int
    low: int
    high: int


@dataclass(frozen=True)
class Table:
    """A table of ``map``: its entries and the bytes of each; the element that it reads (0: there is no table)."""

    name: str
    entries: int
    entry_bytes: int
    reads: int


TYPES = (
    ElementType("u8", "uint8", 1, 0, 255),
    ElementType("i8", "int8", 1, -128, 127),
    ElementType("i16", "int16", 2, -32768, 32767),
)
I16 = 2  # the place of i16 among them
NUMBER = {kind.dtype: number for number, kind in enumerate(TYPES)}  # of a type, by NumPy's name

TABLES = (Table("no", 0, 1, 0), Table("bytes", 256, 1, 1), Table("wide", 256, 2, 1), Table("i16", 513, 2, 2))

_SIZES = np.array([kind.bytes for kind in TYPES], np.int64)
_ENTRIES, _ENTRY_BYTES, _READS = (
    np.array([getattr(table, name) for table in TABLES], np.int64)
    for name in ("entries", "entry_bytes", "reads")
)


def size(types: Any) -> Any:
    """Bytes of an element of each of these types (int64)."""
    return _SIZES[types]


def table_entries(kinds: Any) -> Any:
    """Entries of each of these tables (int64)."""
    return _ENTRIES[kinds]


def table_entry_bytes(kinds: Any) -> Any:
    """Bytes of an entry of each of these tables (int64)."""
    return _ENTRY_BYTES[kinds]


@dataclass(frozen=True)
class MapSizes:
    """Bytes of an element on its way through the steps of ``map`` records (int64 arrays)."""

    source: Any  # read from SRAM; 0: from accumulators
    operand: Any  # 0: there is none
    after: tuple[Any, Any, Any, Any]  # each step; the last is written
    wrong: Any  # whether a step does not read what the one before it gives


def map_sizes(r: Any) -> MapSizes:
    """The sizes of ``map`` records."""
    binary = r["binary"] > 0
    source = np.where(r["source"] == 1, 0, size(r["src_type"]))
    first = np.where(r["source"] == 0, source, size(r["mid_type"]))
    second = np.where(r["table1_on"] > 0, table_entry_bytes(r["table1_on"]), first)
    third = np.where(binary, size(r["r_type"]), second)
    fourth = np.where(r["table2_on"] > 0, table_entry_bytes(r["table2_on"]), third)
    wrong = binary & (size(r["a_type"]) != second)
    for table, before in (("table1_on", first), ("table2_on", third)):
        wrong |= (r[table] > 0) & (_READS[r[table]] != before)
    return MapSizes(source, np.where(binary, size(r["b_type"]), 0), (first, second, third, fourth), wrong)


def wide(r: Any) -> Any:
    """Whether records of an instruction of vx have 16-bit elements, read, written or between the steps of ``map``."""
    names = r.dtype.names
    if "mid_type" in names:
        sizes = map_sizes(r)
        return np.maximum.reduce([sizes.source, sizes.operand, *sizes.after]) > 1
    types = [r[name] for name in ("src_type", "dst_type") if name in names]
    return np.any([size(each) > 1 for each in types], axis=0)
