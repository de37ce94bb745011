"""The SRAM over time: which bytes belong to what, from an instruction to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ommatid.isa.instructions import Memory
from ommatid.isa.program import ROLES, Program

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Lives:
    """SRAM buffers by row: address and bytes, the first and last instruction that names them, role and layer."""

    address: Array
    bytes: Array
    first: Array
    last: Array
    role: tuple[str, ...]
    layer: Array


def sram_lives(program: Program) -> Lives:
    """Every buffer in SRAM that an instruction names."""
    symbols, names = program.symbols, program.operands
    index = np.broadcast_to(np.arange(len(names))[:, None], names.shape)[names >= 0]
    flat = names[names >= 0]
    first = np.full(len(symbols), len(names), np.int64)
    last = np.full(len(symbols), -1, np.int64)
    np.minimum.at(first, flat, index)
    np.maximum.at(last, flat, index)
    used = np.flatnonzero((symbols["memory"] == Memory.SRAM) & (last >= 0))
    rows = symbols[used]
    return Lives(
        rows["address"].astype(np.int64), rows["bytes"].astype(np.int64), first[used], last[used],
        tuple(ROLES[role] for role in rows["role"].tolist()), rows["layer"].astype(np.int64),
    )  # fmt: skip


def sram_used(program: Program, lives: Lives) -> Array:
    """Bytes of SRAM that are in use at each instruction, in program order (int64)."""
    steps = np.zeros(len(program.instructions) + 1, np.int64)
    np.add.at(steps, lives.first, lives.bytes)
    np.add.at(steps, lives.last + 1, -lives.bytes)
    return np.cumsum(steps)[:-1]
