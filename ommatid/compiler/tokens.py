"""Tokens, derived: which instruction must wait for which, from the bytes that they touch.

Lowering emits instructions in an order that is right one at a time. This pass finds, from the footprints,
the orderings between queues that this order implies, keeps those that no other ordering implies already,
and writes them into the ``wait`` and ``signal`` masks. It is the only place that does.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ommatid.isa.compiled import entry, inlined, kernel
from ommatid.isa.footprint import WORD_BITS, WORD_BYTES, accesses, bounds, columns, pieces
from ommatid.isa.instructions import Engine, Memory, queues
from ommatid.isa.target import Target

TOKEN_CAPACITY = 15
ENGINES = len(Engine)


def queues_of(stream: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The queue of each instruction (int64 array), five a core."""
    core, engine = np.divmod(queues(stream).astype(np.int64), 8)
    return core * ENGINES + engine


def add_tokens(stream: np.ndarray[Any, Any], target: Target, dram_base: int) -> None:
    """Write ``wait`` and ``signal`` of every instruction of a stream, in place.

    Below ``dram_base`` (bytes), DRAM is never written. An ``end`` waits for all of its partition.
    """
    queue = queues_of(stream)
    table = accesses(stream, target)
    table = table[(table["memory"] != Memory.DRAM) | (table["address"] >= dram_base)]
    cores = int(max(stream["core"].max(initial=0), table["core"].max(initial=0))) + 1
    need = np.full((len(stream), ENGINES * cores), -1, np.int64)
    for memory, core in itertools.product(Memory, range(cores)):
        part = table[(table["memory"] == memory) & (table["core"] == core)]
        if not len(part):
            continue
        first, last = bounds(part)  # of a few layers, a small piece of all that the network uses
        base = int(first.min()) // WORD_BYTES * WORD_BYTES
        words = -(-(int(last.max()) - base) // WORD_BYTES)
        lie, which = columns(part, base), np.ascontiguousarray(part["instruction"])
        _conflicts(which, np.ascontiguousarray(part["mode"]), *lie, queue, pieces(*lie, words), need)
    _fence(queue, need)
    producers, consumers = _edges(queue, need)
    pairs = queue[producers] * need.shape[1] + queue[consumers]
    for pair in np.unique(pairs):
        bits = [
            core * 8 + engine
            for core, engine in (divmod(int(q), ENGINES) for q in divmod(pair, need.shape[1]))
        ]
        signals, waits = _within_capacity(producers[pairs == pair], consumers[pairs == pair])
        stream["signal"][signals] |= np.uint32(1 << bits[1])
        stream["wait"][waits] |= np.uint32(1 << bits[0])


@entry
def _conflicts(
    instruction: Any, mode: Any, address: Any, run: Any, n: Any, s: Any, owner: Any, piece: Any, need: Any
) -> None:
    """For each instruction and queue, the latest earlier instruction of that queue that it conflicts with."""
    queues, count = need.shape[1], piece[-1] + 1
    # Of each piece, by queue, the last that wrote it, and the last that read it since; a mask says of which queues.
    last_write, writer = np.empty((queues, count), np.int32), np.zeros(count, np.uint32)
    last_read, readers = np.empty((queues, count), np.int32), np.zeros(count, np.uint32)
    for k in range(len(instruction)):
        i, mine, rest = np.int32(instruction[k]), owner[instruction[k]], run[k] - 1
        reads, bit = mode[k] < 2, np.uint32(1 << mine)
        n0, n1, n2, n3 = n[k, 0], n[k, 1], n[k, 2], n[k, 3]
        s0, s1, s2, s3 = s[k, 0], s[k, 1], s[k, 2], s[k, 3]
        for i3 in range(n3):
            for i2 in range(n2):
                for i1 in range(n1):
                    first = address[k] + i1 * s1 + i2 * s2 + i3 * s3
                    for _ in range(n0):
                        begin, end = piece[first >> WORD_BITS], piece[(first + rest >> WORD_BITS) + 1]
                        first += s0
                        wrote, read = writer[begin:end], readers[begin:end]
                        _follow(last_write, wrote, bit, begin, end, i, need)
                        if reads:
                            last_read[mine, begin:end] = i
                            _add_to(read, bit)
                        else:
                            _follow(last_read, read, bit, begin, end, i, need)
                            last_write[mine, begin:end], wrote[:], read[:] = i, bit, 0


@inlined
def _follow(last: Any, masks: Any, bit: Any, begin: int, end: int, i: int, need: Any) -> None:
    """Let instruction i, of the queue with this bit, need what is noted of pieces ``begin`` to ``end`` for other queues."""
    queue, others = 0, _any_of(masks) & ~bit
    while others:
        if others & 1:
            need[i, queue] = max(need[i, queue], _latest(last[queue, begin:end], masks, queue))
        queue, others = queue + 1, others >> 1


# Loops of one statement over slices, so that the machine does several steps at once.


@kernel
def _any_of(masks: Any) -> Any:
    """The bits that any mask has."""
    some = np.uint32(0)
    for p in range(masks.size):
        some |= masks[p]
    return some


@kernel
def _add_to(masks: Any, bit: Any) -> None:
    for p in range(masks.size):
        masks[p] |= bit


@kernel
def _latest(last: Any, masks: Any, queue: Any) -> Any:
    """The latest of what is noted where a mask has a queue's bit."""
    latest = np.int32(-1)
    for p in range(last.size):
        latest = max(latest, last[p] if masks[p] >> queue & 1 else np.int32(-1))
    return latest


def _fence(owner: np.ndarray[Any, Any], need: np.ndarray[Any, Any]) -> None:
    """An ``end`` comes after everything before it; partitions are started one after the other by the host."""
    begin = 0
    for end in np.flatnonzero(owner % ENGINES == Engine.CTL):
        need[begin : end + 1][need[begin : end + 1] < begin] = -1
        for queue in range(need.shape[1]):
            mine = np.flatnonzero(owner[begin:end] == queue)
            if len(mine):
                need[end, queue] = begin + mine[-1]
        begin = int(end) + 1


@entry
def _edges(owner: Any, need: Any) -> Any:
    """The needed orderings that are not implied by others: arrays of producers and consumers."""
    count, queues = need.shape
    # done[i, q]: the latest instruction of queue q known to be over when i starts
    done = np.full((count, queues), -1, np.int64)
    previous = np.full(queues, -1, np.int64)
    producers = np.empty(count * queues, np.int64)
    consumers = np.empty(count * queues, np.int64)
    edges = 0
    for i in range(count):
        mine = owner[i]
        before = previous[mine]
        if before >= 0:
            done[i] = done[before]
            done[i, mine] = before
        for queue in range(queues):
            j = need[i, queue]
            if queue == mine or j <= done[i, queue]:
                continue
            implied = False
            for other in range(queues):
                k = need[i, other]
                if other != queue and other != mine and k >= 0 and done[k, queue] >= j:
                    implied = True
            if not implied:
                producers[edges], consumers[edges] = j, i
                edges += 1
        for queue in range(queues):
            j = need[i, queue]
            if queue != mine and j >= 0:
                for other in range(queues):
                    done[i, other] = max(done[i, other], done[j, other])
                done[i, queue] = max(done[i, queue], j)
        previous[mine] = i
    return producers[:edges].copy(), consumers[:edges].copy()


@entry
def _within_capacity(producers: Any, consumers: Any) -> Any:
    """The orderings of one token, merged so that it never holds more than its capacity in program order.

    Two neighbours (j, i), (k, l) become (k, i): i then waits a little longer, which covers l.
    """
    signals, waits = producers.copy(), consumers.copy()
    first, end = 0, 0  # of those kept, the tokens that are held
    for k in range(len(producers)):
        j, i = producers[k], consumers[k]
        while first < end and waits[first] < j:
            first += 1
        signals[end], waits[end] = j, i
        end += 1
        if end - first > TOKEN_CAPACITY:
            m = first + np.argmin(np.diff(signals[first:end]))
            signals[m : end - 1] = signals[m + 1 : end].copy()
            waits[m + 1 : end - 1] = waits[m + 2 : end].copy()
            end -= 1
    return signals[:end], waits[:end]
