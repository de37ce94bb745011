"""Which instruction is over before which other starts, by brute force; and random programs to try it on."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ommatid.isa.footprint import accesses
from ommatid.isa.instructions import BY_OPCODE, Engine, Memory, Mode
from ommatid.isa.program import Program
from tests.isa.builder import Builder

WORDS = 4  # of each memory that random programs use
CONSTANT_BYTES = 64
KINDS = ["load", "fill", "store", "dwconv", "map", "reduce", "copy"]


@st.composite
def random_orders(draw: st.DrawFn, most: int, least: int = 0) -> Program:
    """A program without tokens: ``least`` to ``most`` instructions on a few words of each memory, and an end."""
    b = Builder("ommatid-256", bytes(CONSTANT_BYTES), dram_bytes=CONSTANT_BYTES + 16 * WORDS)
    if draw(st.integers(0, 9)):  # else some reads see what nothing has written
        b.fill(dst=0, run=16 * WORDS)
        b.store(src=0, dst=CONSTANT_BYTES, run=16 * WORDS)
        b.reduce(src=0, acc=0, c=4 * WORDS)
    for kind in draw(st.lists(st.sampled_from(KINDS), min_size=least, max_size=most)):
        emit(draw, b, kind)
    b.end()
    return b.program()


def emit(draw: st.DrawFn, b: Builder, kind: str) -> None:
    """One instruction on random words."""
    x, y, z = (16 * draw(st.integers(0, WORDS - 1)) for _ in range(3))
    off = draw(st.integers(0, 12))
    if kind == "load":
        b.load(src=draw(st.sampled_from([0, CONSTANT_BYTES + x])), dst=y + off, run=4)
    elif kind == "fill":
        b.fill(dst=x, run=2, n1=2, dst_s1=draw(st.sampled_from([2, 16, -16])) if x in (16, 32) else 2)
    elif kind == "store":
        b.store(src=x + off, dst=CONSTANT_BYTES + y, run=4)
    elif kind == "dwconv":
        b.dwconv(src=x + off, weights=y, acc=z, accumulate=draw(st.integers(0, 1)))
    elif kind == "map":
        b.map(source=1, src=x, parameters=y, dst=z + 8 + off % 8)
    elif kind == "reduce":
        b.reduce(src=x + off, acc=y, accumulate=draw(st.integers(0, 1)))
    else:
        b.copy(src=x + off % 8, dst=y + 8)


def touched_words(program: Program) -> list[set[tuple[int, int, bool]]]:
    """(memory, word, is it written) of every instruction, byte by byte; constants are left out."""
    words: list[set[tuple[int, int, bool]]] = [set() for _ in program.instructions]
    for access in accesses(program.instructions, program.target):
        starts = np.array([access["address"]])
        for count, step in zip(access["n"], access["s"], strict=True):
            starts = np.add.outer(starts, np.arange(count) * step)
        for byte in np.add.outer(starts, np.arange(access["run"])).ravel().tolist():
            if access["memory"] != Memory.DRAM or byte >= len(program.constants):
                for mode in (Mode.READ, Mode.WRITE):
                    if access["mode"] & mode:
                        words[access["instruction"]].add(
                            (int(access["memory"]), byte // 16, mode == Mode.WRITE)
                        )
    return words


def queue_numbers(program: Program) -> list[int]:
    return [int(BY_OPCODE[int(op)].engine) for op in program.instructions["opcode"]]


def token_pairs(program: Program) -> tuple[list[tuple[int, int]], bool, bool]:
    """(signal, wait) of every token; is a wait without its signal; is a signal without its wait."""
    queue, stream = queue_numbers(program), program.instructions
    edges, starved, left = [], False, False
    for source in Engine:
        for to in Engine:
            signals = [i for i, q in enumerate(queue) if q == source and int(stream["signal"][i]) >> to & 1]
            waits = [i for i, q in enumerate(queue) if q == to and int(stream["wait"][i]) >> source & 1]
            edges += list(zip(signals, waits, strict=False))
            starved |= len(waits) > len(signals)
            left |= len(signals) > len(waits)
    return edges, starved, left


def happens_before(program: Program, edges: list[tuple[int, int]]) -> np.ndarray[Any, Any]:
    """[i, j]: i is over before j starts; a circle shows on the diagonal."""
    queue, count = queue_numbers(program), len(program.instructions)
    before = np.zeros((count, count), bool)
    for i, j in combinations(range(count), 2):
        before[i, j] = queue[i] == queue[j]
    for i, j in edges:
        before[i, j] = True
    for k in range(count):
        before |= np.outer(before[:, k], before[k])
    return before


def conflict(a: set[tuple[int, int, bool]], b: set[tuple[int, int, bool]]) -> bool:
    return any((m, w) == (n, v) and (x or y) for m, w, x in a for n, v, y in b)
