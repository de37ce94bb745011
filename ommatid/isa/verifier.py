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
from ommatid.isa.footprint import WORD_BITS, WORD_BYTES, accesses, bounds, columns, pieces
from ommatid.isa.instructions import BY_OPCODE, MAX_OPERANDS, MOST_CORES, Memory, Mode
from ommatid.isa.program import ROLES, Program

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


def _sizes(program: Program) -> tuple[int, int, int]:
    """Bytes of each memory."""
    return program.dram_bytes, program.target.sram_bytes, program.target.accumulator_bytes


def _lies_inside(program: Program, number: int) -> bool:
    """There is such a symbol, and its memory has all of its bytes."""
    if not 0 <= number < len(program.symbols):
        return False
    symbol, sizes = program.symbols[number], _sizes(program)
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
    size = np.array(_sizes(program))[table["memory"]]
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
                problems += _shadowed(program, part, order, queue, clock, memory)
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


def _shadowed(
    program: Program, part: Array, order: Array, queue: Array, clock: Array, memory: Memory
) -> list[str]:
    """Races, and reads that see bytes of another symbol, in one memory."""
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    part = part[np.argsort(rank[part["instruction"]], kind="stable")]
    base = len(program.constants) // WORD_BYTES * WORD_BYTES if memory == Memory.DRAM else 0
    part = part[(part["address"] >= base) | (part["mode"] != Mode.READ)]
    symbol = program.operands[part["instruction"], part["slot"]].astype(np.int64)
    size = _sizes(program)[memory]
    lie = columns(part, base)
    address, run, number = _initial(program, memory, base)
    ones, none = np.ones((len(run), 4), np.int64), np.zeros((len(run), 4), np.int64)
    everything = zip(lie, (address, run, ones, none), strict=True)
    piece = pieces(*map(np.concatenate, everything), (size - base) // WORD_BYTES + 1)
    found = _shadow(
        part["instruction"].astype(np.int64),
        part["mode"],
        *lie,
        symbol,
        queue,
        clock,
        piece,
        address,
        run,
        number,
    )
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
