"""Shadow memory of the verifier: who wrote each byte last, and who has read it since, in an order that tokens allow."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import entry
from ommatid.isa.descriptors import describe
from ommatid.isa.footprint import WORD_BITS, WORD_BYTES, columns, pieces
from ommatid.isa.instructions import Memory, Mode
from ommatid.isa.program import Program

Array = np.ndarray[Any, Any]


def memory_bytes(program: Program) -> tuple[int, int, int]:
    """Bytes of each memory."""
    return program.dram_bytes, program.target.sram_bytes, program.target.accumulator_bytes


def shadowed(
    program: Program, part: Array, order: Array, queue: Array, clock: Array, memory: Memory
) -> list[str]:
    """Races, and reads that see bytes of another symbol, in one memory."""
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    part = part[np.argsort(rank[part["instruction"]], kind="stable")]
    base = len(program.constants) // WORD_BYTES * WORD_BYTES if memory == Memory.DRAM else 0
    part = part[(part["address"] >= base) | (part["mode"] != Mode.READ)]
    symbol = program.operands[part["instruction"], part["slot"]].astype(np.int64)
    size = memory_bytes(program)[memory]
    lie = columns(part, base)
    address, run, number = _initial(program, memory, base)
    ones, none = np.ones((len(run), 4), np.int64), np.zeros((len(run), 4), np.int64)
    everything = zip(lie, (address, run, ones, none), strict=True)
    piece = pieces(*map(np.concatenate, everything), (size - base) // WORD_BYTES + 1)
    instruction, mode = part["instruction"].astype(np.int64), np.ascontiguousarray(part["mode"])
    host = address, run, number
    found = _shadow(instruction, mode, *lie, symbol, queue, clock, piece, *host)
    kinds = {
        0: "is not ordered after the write by",
        1: "is not ordered after the read by",
        2: "reads bytes last written for another buffer, by",
        3: "reads bytes that nothing has written",
    }
    problems = []
    for i, kind, other, at in found.tolist():
        word = int(np.searchsorted(piece, at))
        by = "" if kind == 3 else f" {describe(program, other)}" if other >= 0 else " the host"
        problems.append(
            f"{describe(program, i)} {kinds[kind]}{by} ({memory.name} byte {base + word * WORD_BYTES})"
        )
    return problems


def _initial(program: Program, memory: Memory, base: int) -> tuple[Array, Array, Array]:
    """What the host or CPU partitions write: (address, bytes, symbol) of the tensors of no layer."""
    rows = [
        (p.symbol, program.symbols[p.symbol]) for p in program.placed if p.layer < 0 and p.memory == memory
    ]
    address = np.array([int(s["address"]) - base for _, s in rows], np.int64)
    size = np.array([int(s["bytes"]) for _, s in rows], np.int64)
    return address, size, np.array([number for number, _ in rows], np.int64)


@entry
def _shadow(
    instruction: Any, mode: Any, address: Any, run: Any, n: Any, s: Any, symbol: Any, queue: Any, clock: Any,
    piece: Any, initial_address: Any, initial_bytes: Any, initial_symbol: Any,
) -> Any:  # fmt: skip
    """Problems as rows (instruction, kind, other instruction, piece); one for each access at most, 200 in all."""
    queues = queue.max() + 1
    # of a piece: who wrote it last (-2: nobody, -1: the host), for which symbol, and each queue's last reader since
    shadow = np.full((piece[-1] + 1, 2 + queues), -1, np.int32)
    shadow[:, 0] = -2
    for k in range(len(initial_address)):
        end = (initial_address[k] + initial_bytes[k] - 1 >> WORD_BITS) + 1
        for at in range(piece[initial_address[k] >> WORD_BITS], piece[end]):
            shadow[at, 0], shadow[at, 1] = -1, initial_symbol[k]
    found = np.empty((200, 4), np.int64)
    count = 0
    for k in range(len(instruction)):
        i, own, reads, writes = instruction[k], symbol[k], mode[k] != 2, mode[k] >= 2
        mine, before = queue[i], clock[i].astype(np.int32)
        before[mine] = i  # its own queue is in order
        reported = False
        for i3 in range(n[k, 3]):
            for i2 in range(n[k, 2]):
                for i1 in range(n[k, 1]):
                    for i0 in range(n[k, 0]):
                        begin = address[k] + i0 * s[k, 0] + i1 * s[k, 1] + i2 * s[k, 2] + i3 * s[k, 3]
                        end = (begin + run[k] - 1 >> WORD_BITS) + 1
                        for at in range(piece[begin >> WORD_BITS], piece[end]):
                            kind, other, last = -1, -1, shadow[at, 0]
                            if last >= 0 and before[queue[last]] < last:
                                kind, other = 0, last
                            elif reads and last == -2:
                                kind = 3
                            elif reads and shadow[at, 1] != own:
                                kind, other = 2, last
                            if writes:
                                for q in range(queues):
                                    r = shadow[at, 2 + q]
                                    if before[q] < r and kind < 0:
                                        kind, other = 1, r
                                    shadow[at, 2 + q] = -1
                                shadow[at, 0], shadow[at, 1] = i, own
                            else:
                                shadow[at, 2 + mine] = i
                            if kind >= 0 and not reported and count < 200:
                                found[count, 0], found[count, 1] = i, kind
                                found[count, 2], found[count, 3] = other, at
                                count += 1
                                reported = True
    return found[:count].copy()
