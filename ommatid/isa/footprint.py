"""The footprint of instructions: which bytes each reads and writes, from the operands of the table.

Ordering works in bank words: two accesses conflict when they touch the same 16-byte word (SRAM and DRAM)
or the same four accumulators, and one of them writes. Bounds are exact to the byte.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import entry
from ommatid.isa.instructions import BY_OPCODE, MOST_CORES, Memory, Mode, view
from ommatid.isa.target import Target

Array = np.ndarray[Any, Any]
WORD_BYTES = 16
WORD_BITS = WORD_BYTES.bit_length() - 1  # of an address that are a byte's in its word

#: One operand of one instruction: ``run`` bytes at ``address``, repeated by four loops (count n, stride s).
ACCESS = np.dtype(
    [
        ("instruction", "i4"),
        ("slot", "i1"),  # the operand's place in its instruction's row
        ("memory", "i1"),
        ("core", "i1"),  # whose SRAM or accumulators; 0 for DRAM
        ("mode", "i1"),
        ("address", "i8"),
        ("run", "i8"),
        ("n", "i8", (4,)),
        ("s", "i8", (4,)),
    ]
)


def accesses(stream: Array, target: Target) -> Array:
    """All memory operands of a stream as ACCESS records, ordered by instruction, then operand, then core.

    An operand in several cores' memories has a record for each; absent operands are left out. Loops are merged
    into the run where they are contiguous, or read the same bytes again; loops of one repetition have stride 0.
    """
    parts = []
    for opcode in np.unique(stream["opcode"]):
        where = np.flatnonzero(stream["opcode"] == opcode)
        row = BY_OPCODE[int(opcode)]
        records = view(stream, row.mnemonic)[where]
        for slot, operand in enumerate(row.operands):
            run, loops = operand.extent(records, target)
            part = np.zeros(len(where), ACCESS)
            part["instruction"], part["slot"], part["memory"] = where, slot, int(operand.memory)
            part["core"] = 0 if operand.memory == Memory.DRAM else records["core"]
            part["mode"] = operand.mode if isinstance(operand.mode, Mode) else operand.mode(records)
            part["address"], part["run"] = records[operand.field], run
            part["n"] = 1
            for i, (count, stride) in enumerate(loops):
                part["n"][:, i], part["s"][:, i] = count, stride
            if operand.cores is not None:
                part = _in_cores(part, operand.cores(records))
            parts.append(part[part["run"] > 0])
    if not parts:
        return np.zeros(0, ACCESS)
    table = _merged(np.concatenate(parts))
    return table[np.lexsort((table["core"], table["slot"], table["instruction"]))]


def _in_cores(part: Array, masks: Array) -> Array:
    """Each access once for every core of its mask."""
    copies = []
    for core in range(MOST_CORES):
        copy = part[masks >> core & 1 == 1]
        copy["core"] = core
        copies.append(copy)
    return np.concatenate(copies)


def _merged(part: Array) -> Array:
    run, n, s = part["run"].copy(), part["n"].copy(), part["s"].copy()
    s[n == 1] = 0
    for _ in range(4):  # the innermost loop that counts, into the run, as often as it fits
        again = (n[:, 0] == 1) | (part["mode"] == Mode.READ)
        contiguous = (s[:, 0] == run) | ((s[:, 0] == 0) & again)
        at = np.flatnonzero(contiguous & (n != 1).any(axis=1))
        if not at.size:
            break
        run[at] *= np.where(s[at, 0] == 0, 1, n[at, 0])
        for loops, last in ((n, 1), (s, 0)):
            loops[at, :3] = loops[at, 1:]
            loops[at, 3] = last
    part["run"], part["n"], part["s"] = run, n, s
    return part


def bounds(table: Array) -> tuple[Array, Array]:
    """The first byte and the byte after the last that each access touches (int64 arrays)."""
    steps = (table["n"] - 1) * table["s"]
    first = table["address"] + np.minimum(steps, 0).sum(axis=1)
    last = table["address"] + np.maximum(steps, 0).sum(axis=1) + table["run"]
    return first, last


def columns(table: Array, base: int) -> tuple[Array, Array, Array, Array]:
    """Address counted from ``base``, run, counts and strides of accesses, each a dense array: for ``pieces``."""
    dense = table["address"] - base, table["run"], table["n"], table["s"]
    address, run, n, s = (np.ascontiguousarray(column) for column in dense)
    return address, run, n, s


@entry
def pieces(address: Any, run: Any, n: Any, s: Any, words: int) -> Any:
    """Of each of so many words the number of its piece (int32, rising), and one behind: words that all accesses take
    together are one piece, which begins where a run begins or has ended."""
    piece = np.zeros(words + 1, np.int32)
    for k in range(len(address)):
        for i3 in range(n[k, 3]):
            for i2 in range(n[k, 2]):
                for i1 in range(n[k, 1]):
                    first = address[k] + i1 * s[k, 1] + i2 * s[k, 2] + i3 * s[k, 3]
                    for _ in range(n[k, 0]):
                        piece[first >> WORD_BITS] = 1
                        piece[(first + run[k] - 1 >> WORD_BITS) + 1] = 1
                        first += s[k, 0]
    for word in range(words):
        piece[word + 1] += piece[word]
    return piece
