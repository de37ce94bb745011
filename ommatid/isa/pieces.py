"""Constants that several images have in common, kept once.

An image is cut where symbols begin, which is where its constants do. The first image is kept as it is; of each
further one only the pieces are kept that none before it holds, and a table says where every piece lies.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ommatid.isa.program import ROLES, Program

Array = np.ndarray[Any, Any]


def share(programs: Sequence[Program]) -> tuple[list[Array], list[Array]]:
    """What is kept of each program's constants (uint8), and its table of pieces.

    A table is int64 [piece, 3]: the number of the program with whose constants it is kept, where in them, bytes.
    """
    known: dict[bytes, tuple[int, int]] = {}
    kept, tables = [], []
    for number, program in enumerate(programs):
        image = program.constants.tobytes()
        edges = _edges(program)
        new, rows, size = [], [], 0
        for begin, end in itertools.pairwise(edges):
            piece = image[begin:end]
            if piece not in known or number == 0:
                known.setdefault(piece, (number, size))
                rows.append((number, size, len(piece)))
                new.append(piece)
                size += len(piece)
            else:
                rows.append((*known[piece], len(piece)))
        kept.append(np.frombuffer(b"".join(new), np.uint8))
        tables.append(np.array(rows, np.int64).reshape(-1, 3))
    return kept, tables


def _edges(program: Program) -> list[int]:
    """Where an image is cut, its two ends included."""
    size = len(program.constants)
    constants = program.symbols[program.symbols["role"] == ROLES.index("constants")]
    begins = constants["address"][(constants["memory"] == 0) & (constants["address"] < size)]
    return sorted({0, size, *begins.tolist()})


def joined(kept: Sequence[Array], table: Array) -> Array:
    """The image of a table's pieces.

    Raises:
        ValueError: a piece lies outside of what is kept.
    """
    parts = []
    for number, begin, size in table.tolist():
        if not (0 <= number < len(kept) and 0 <= begin <= begin + size <= len(kept[number])):
            raise ValueError(f"a piece of {size} bytes at {begin} of image {number} does not exist")
        parts.append(kept[number][begin : begin + size])
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)
