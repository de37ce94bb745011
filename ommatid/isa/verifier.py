"""The verifier: proves, without running it, that a program is safe on its target.

Four questions, each answered for every instruction: is the descriptor legal (``descriptors.py``); does each
operand stay inside the memory that the program says it uses (``operands``, ``symbols``); do the queues come to an
end; and does every read, whatever the engines' speed, see the bytes that were written for it? For the last, the
queues are run once without time, carrying vector clocks, and a shadow of every memory word holds its last writer
and its last readers.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np

from ommatid.isa.compiled import entry
from ommatid.isa.descriptors import describe, illegal_descriptors
from ommatid.isa.footprint import accesses, bounds
from ommatid.isa.instructions import BY_OPCODE, MAX_OPERANDS, MOST_CORES, Memory, Mode
from ommatid.isa.program import ROLES, Program
from ommatid.isa.shadow import memory_bytes, shadowed

Array = np.ndarray[Any, Any]

TOKEN_CAPACITY = 15
MOST_PROBLEMS = 100
QUEUES = 5 * MOST_CORES


def verify(program: Program) -> list[str]:
    """Everything that is wrong with a program, one sentence each; empty if nothing is (at most 100)."""
    problems = illegal_descriptors(program)
    if problems:
        return problems[:MOST_PROBLEMS]
    table = accesses(program.instructions, program.target)
    problems += _partitions(program)
    problems += _out_of_bounds(program, table)
    if not problems:
        problems += _overlapping_operands(program, table) + _written_twice(program, table)
    if not problems:
        problems += _order_and_data(program, table)
    return problems[:MOST_PROBLEMS]


def _partitions(program: Program) -> list[str]:
    """NPU partitions stand one after the other, cover everything, and close with ``end``."""
    problems, at = [], 0
    for number, partition in enumerate(program.partitions):
        if partition.placement != "npu":
            continue
        if partition.begin != at or partition.end <= partition.begin:
            problems.append(
                f"partition {number} covers instructions {partition.begin} to {partition.end}, not from {at}"
            )
        at = partition.end
        ends = program.instructions["opcode"][partition.begin : partition.end]
        is_end = np.array([BY_OPCODE[int(op)].mnemonic == "end" for op in ends])
        if not is_end[-1:].all() or is_end.sum() != 1:
            problems.append(f"partition {number} does not close with its only end")
    if at != len(program.instructions):
        problems.append(f"partitions cover {at} of {len(program.instructions)} instructions")
    return problems


# --- bounds and ownership ----------------------------------------------------------------------------------


def _lies_inside(program: Program, number: int) -> bool:
    """There is such a symbol, and its memory has all of its bytes."""
    if not 0 <= number < len(program.symbols):
        return False
    symbol, sizes = program.symbols[number], memory_bytes(program)
    memory = int(symbol["memory"])
    return memory < len(sizes) and int(symbol["address"]) + int(symbol["bytes"]) <= sizes[memory]


def _out_of_bounds(program: Program, table: Array) -> list[str]:
    """Accesses outside their memory, or outside the symbol that the program names for them."""
    low, high = bounds(table)
    problems = [
        f"tensor {p.tensor.name!r} is written by the host: its symbol {p.symbol} is not inside a memory"
        for p in program.placed
        if p.layer < 0 and not _lies_inside(program, p.symbol)
    ]
    size = np.array(memory_bytes(program))[table["memory"]]
    named = program.operands[table["instruction"], table["slot"]]
    outside = (low < 0) | (high > size)
    nobody = (named < 0) | (named >= len(program.symbols))
    if not len(program.symbols):
        nobody[:] = True
    symbols = program.symbols[np.where(nobody, 0, named)] if len(program.symbols) else None
    for k in np.flatnonzero(outside):
        memory = Memory(int(table["memory"][k])).name
        problems.append(
            f"{_operand(program, table[k])}: bytes {low[k]} to {high[k]} are outside the {memory} of {size[k]} bytes"
        )
    written = (table["mode"] != Mode.READ) & (table["memory"] == Memory.DRAM)
    for k in np.flatnonzero(written & (low < len(program.constants)) & ~outside):
        problems.append(f"{_operand(program, table[k])}: writes to the constants")
    for k in np.flatnonzero(nobody & ~outside):
        problems.append(f"{_operand(program, table[k])}: no symbol is named for it")
    if symbols is None:
        return problems
    begin = symbols["address"].astype(np.int64)
    wrong = (symbols["memory"] != table["memory"]) | (low < begin) | (high > begin + symbols["bytes"])
    for k in np.flatnonzero(wrong & ~nobody & ~outside):
        problems.append(
            f"{_operand(program, table[k])}: bytes {low[k]} to {high[k]} are outside its symbol {named[k]}"
        )
    fixed = np.isin(symbols["role"], [ROLES.index(r) for r in ("constants", "instructions", "input")])
    for k in np.flatnonzero(
        (table["mode"] != Mode.READ) & fixed & ~nobody & (table["memory"] == Memory.DRAM)
    ):
        problems.append(f"{_operand(program, table[k])}: writes to {ROLES[symbols['role'][k]]}")
    return problems


def _overlapping_operands(program: Program, table: Array) -> list[str]:
    """Instructions that read, or write twice, bytes which they write; a map may read them, element upon element."""
    low, high = bounds(table)
    row = np.full((len(program.instructions), MAX_OPERANDS), -1, np.int64)
    row[table["instruction"], table["slot"]] = np.arange(len(table))
    problems = []
    for one, write in permutations(range(MAX_OPERANDS), 2):
        both = row[(row[:, one] >= 0) & (row[:, write] >= 0)]
        a, b = both[:, one], both[:, write]
        near = (table["memory"][a] == table["memory"][b]) & (table["core"][a] == table["core"][b])
        near &= (low[a] < high[b]) & (low[b] < high[a])
        near &= table["mode"][b] != Mode.READ
        for x, y in zip(table[a[near]], table[b[near]], strict=True):
            if not _element_upon_element(program, x, y) and np.intersect1d(_bytes(x), _bytes(y)).size:
                name = (
                    BY_OPCODE[int(program.instructions["opcode"][x["instruction"]])]
                    .operands[int(y["slot"])]
                    .name
                )
                problems.append(f"{_operand(program, x)}: overlaps operand {name}, which is written")
    return problems


def _written_twice(program: Program, table: Array) -> list[str]:
    """Instructions that write a byte more than once: which is last depends on how an engine goes about it."""
    writes = table[table["mode"] != Mode.READ]
    order = np.argsort(np.abs(writes["s"]), axis=1)
    counts, steps = (np.take_along_axis(np.abs(writes[name]), order, axis=1) for name in ("n", "s"))
    span, doubtful = writes["run"].copy(), np.zeros(len(writes), bool)
    for n, step in zip(counts.T, steps.T, strict=True):
        doubtful |= (n > 1) & (step < span)
        span += (n - 1) * step
    return [
        f"{_operand(program, access)}: writes a byte more than once"
        for access in writes[doubtful]
        if _bytes(access).size < access["run"] * access["n"].prod()
    ]


def _element_upon_element(program: Program, a: Any, b: Any) -> bool:
    """Whether a map reads and writes the same bytes in the same order."""
    is_map = BY_OPCODE[int(program.instructions["opcode"][a["instruction"]])].mnemonic == "map"
    alike = all((a[name] == b[name]).all() for name in ("address", "run", "n", "s"))
    return is_map and alike


def _bytes(access: Any) -> Array:
    """The bytes that an access touches, each once."""
    starts: Array = np.array([access["address"]])
    for count, step in zip(access["n"], access["s"], strict=True):
        if step:
            starts = np.unique(np.add.outer(starts, np.arange(count) * step))
    return np.unique(np.add.outer(starts, np.arange(access["run"])))


def _operand(program: Program, access: Any) -> str:
    index = int(access["instruction"])
    row = BY_OPCODE[int(program.instructions["opcode"][index])]
    return f"{describe(program, index)}, operand {row.operands[int(access['slot'])].name}"


# --- order and data ----------------------------------------------------------------------------------------


def _order_and_data(program: Program, table: Array) -> list[str]:
    stream = program.instructions
    engine = np.array([BY_OPCODE[int(op)].engine for op in stream["opcode"]], np.int64)
    queue = stream["core"].astype(np.int64) * 5 + engine
    masks = (stream["wait"].astype(np.int64), stream["signal"].astype(np.int64))
    order, clock = np.arange(len(stream)), np.full((len(stream), QUEUES), -1, np.int64)
    problems: list[str] = []
    for partition in program.partitions:
        if partition.placement == "npu":
            problems += _run_partition(program, partition.begin, partition.end, queue, masks, order, clock)
    if any(problem.startswith("deadlock") for problem in problems):
        return problems
    for memory in Memory:
        for core in range(program.target.cores if memory != Memory.DRAM else 1):
            part = table[table["memory"] == memory]
            if memory != Memory.DRAM:
                part = part[part["core"] == core]
            if len(part):
                problems += shadowed(program, part, order, queue, clock, memory)
    return problems


def _run_partition(
    program: Program,
    begin: int,
    end: int,
    queue: Array,
    masks: tuple[Array, Array],
    order: Array,
    clock: Array,
) -> list[str]:
    """Run one partition's queues; fills its part of ``order`` and ``clock``. What came before it is over."""
    part = slice(begin, end)
    ran, times, left = _run_queues(queue[part], masks[0][part], masks[1][part])
    if len(ran) < end - begin:
        stuck = min(set(range(end - begin)) - set(ran.tolist()))
        return [f"deadlock: {describe(program, begin + stuck)} can never start"]
    order[part] = ran + begin
    clock[part] = times + begin  # none (-1) becomes the last instruction before the partition
    problems = [
        f"{left[source, to]} token(s) from queue {source} to queue {to} are never taken"
        for source, to in np.argwhere(left > 0)
    ]
    return problems + _unfinished(program, queue, clock, begin, end)


@entry
def _run_queues(queue: Any, wait: Any, signal: Any) -> Any:
    """Run the queues without time, round robin.

    Returns the order of execution, for each instruction and queue the latest instruction of that queue that
    is over when it starts, and the tokens left. A net of queues and tokens has no choices: if this order
    comes to an end, every order does.
    """
    count, queues = len(queue), 20
    length = np.zeros(queues, np.int64)
    for i in range(count):
        length[queue[i]] += 1
    offset = np.zeros(queues + 1, np.int64)
    for q in range(queues):
        offset[q + 1] = offset[q] + length[q]
    items, head = np.empty(count, np.int64), offset[:-1].copy()
    for i in range(count):
        items[head[queue[i]]] = i
        head[queue[i]] += 1
    head = offset[:-1].copy()
    clock = np.full((count, queues), -1, np.int64)
    tokens = np.full((queues, queues, 16), -1, np.int64)  # the instructions that put them
    first, held = np.zeros((queues, queues), np.int64), np.zeros((queues, queues), np.int64)
    pending = np.full(queues, -1, np.int64)  # executed, but a token that it puts has no room
    order = np.empty(count, np.int64)
    done = 0
    progress = True
    while progress:
        progress = False
        for q in range(queues):
            while True:
                if pending[q] >= 0:
                    i = pending[q]
                    room = True
                    for bit in range(32):
                        if signal[i] >> bit & 1 and held[q, (bit // 8) * 5 + bit % 8] >= 15:
                            room = False
                    if not room:
                        break
                    for bit in range(32):
                        if signal[i] >> bit & 1:
                            to = (bit // 8) * 5 + bit % 8
                            tokens[q, to, (first[q, to] + held[q, to]) % 16] = i
                            held[q, to] += 1
                    pending[q] = -1
                    progress = True
                if head[q] >= offset[q + 1]:
                    break
                i = items[head[q]]
                ready = True
                for bit in range(32):
                    if wait[i] >> bit & 1 and held[(bit // 8) * 5 + bit % 8, q] == 0:
                        ready = False
                if not ready:
                    break
                if head[q] > offset[q]:
                    before = items[head[q] - 1]
                    clock[i] = clock[before]
                    clock[i, q] = before
                for bit in range(32):
                    if wait[i] >> bit & 1:
                        source = (bit // 8) * 5 + bit % 8
                        j = tokens[source, q, first[source, q]]
                        first[source, q] = (first[source, q] + 1) % 16
                        held[source, q] -= 1
                        for other in range(queues):
                            clock[i, other] = max(clock[i, other], clock[j, other])
                        clock[i, source] = max(clock[i, source], j)
                order[done] = i
                done += 1
                head[q] += 1
                pending[q] = i
                progress = True
    return order[:done].copy(), clock, held


def _unfinished(program: Program, queue: Array, clock: Array, first: int, last: int) -> list[str]:
    """What an ``end`` does not wait for."""
    problems = []
    end = last - 1
    for q in np.unique(queue[first:end]):
        latest = first + int(np.flatnonzero(queue[first:end] == q)[-1])
        if clock[end, q] < latest and queue[end] != q:
            problems.append(f"{describe(program, end)} does not wait for {describe(program, latest)}")
    return problems
