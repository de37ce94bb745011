"""Threads that execute the queues of a chip, as the chip does: in order within a queue, and by tokens between queues.

No thread owns a queue. Whoever is free takes the next instruction of some queue whose tokens are there, and opens it
in parts, one for each thread if it is large; a queue is taken until all parts of its instruction are done, and
whoever does the last one says so. A thread does the part of its own number, so that it finds in its CPU's cache what
it left there: the same part of an image. Reading what another CPU wrote takes longer than most instructions. Yet
nobody waits for a certain thread: after some microseconds any part will do, so that a thread that the operating system
does not run holds up one queue at most, and one thread alone gets through too. Whoever finds nothing spins for a
while, then sleeps; at once if it runs on the CPU of another thread, which works. Thread 0, the caller's, stays until all
is done; if it waits for a millisecond it sends the others home: the machine has other work for their CPUs, and would
stop them again and again amidst a part.

A program that the verifier accepts gives the same bits in every order that tokens allow.
"""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ommatid.isa.compiled import kernel
from ommatid.isa.instructions import INSTRUCTION_BYTES, STREAM

QUEUES = 32  # numbers of queues are below: 8 * core + engine, as in the masks of tokens
LINE = 8  # words of state in a line of the host's cache
MOST_PARTS = 16
#: Words of ``state`` (int64). In the line of a queue: twice the instructions that it has done, plus 1 if it is taken;
#: if it is, a mask of the parts that nobody has claimed, plus 1 << 16 times the instruction's place in ``lists``; and
#: the parts that are not done. Then for each queue the tokens of each queue for it; the CPU that last finished an
#: instruction, plus 1 << 32 times the thread; and 1 if thread 0 goes on alone. What changes together
#: lies together: a line that another CPU wrote last takes as long to read as hundreds of products.
#: ``plan`` has each queue's first place in ``lists``, and one more, then the queues that have instructions, in the
#: order in which threads try them.
TAKEN, UNCLAIMED, UNDONE, TOKENS = 0, 1, 2, LINE * QUEUES
CPU = TOKENS + QUEUES * QUEUES
ALONE = CPU + LINE
WORDS = ALONE + LINE
KNOWS_CPU = sys.platform == "linux"
#: Turns of waiting: before one takes another thread's part, before one sleeps, before one goes on alone.
PATIENCE, SPINS, ENOUGH = 20, 500, 2500
_FIELDS: Any = STREAM.fields
WAIT, SIGNAL = int(_FIELDS["wait"][1]), int(_FIELDS["signal"][1])  # bytes from an instruction's begin
_LONG = ir.IntType(64)
_getcpu = types.ExternalFunction("sched_getcpu" if KNOWS_CPU else "abs", types.int32())
_sleep = types.ExternalFunction(
    "usleep" if os.name == "posix" else "Sleep", types.int32(types.uint32)
)  # microseconds; on Windows milliseconds


def _word(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [at])


@intrinsic
def read(typing_context: Any, state: Any, at: Any) -> Any:
    """A word as another thread left it, and all that it wrote before."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load_atomic(_word(context, builder, state, *args), "seq_cst", 8)

    return types.int64(state, types.int64), codegen


@intrinsic
def write(typing_context: Any, state: Any, at: Any, value: Any) -> Any:
    """Set a word; who reads it sees all that was written before."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store_atomic(args[2], _word(context, builder, state, *args[:2]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(state, types.int64, types.int64), codegen


@intrinsic
def add(typing_context: Any, state: Any, at: Any, value: Any) -> Any:
    """Add to a word; what it was."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _word(context, builder, state, *args[:2]), args[2], "seq_cst")

    return types.int64(state, types.int64, types.int64), codegen


@intrinsic
def exchange(typing_context: Any, state: Any, at: Any, old: Any, new: Any) -> Any:
    """Set a word that is still ``old`` to ``new``; whether it was."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = _word(context, builder, state, *args[:2])
        return builder.extract_value(builder.cmpxchg(place, args[2], args[3], "seq_cst"), 1)

    return types.boolean(state, types.int64, types.int64, types.int64), codegen


@intrinsic
def pause(typing_context: Any) -> Any:
    """Tell the CPU that this is a loop that waits."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if platform.machine() in ("x86_64", "AMD64"):
            shape = ir.FunctionType(ir.VoidType(), [])
            name = "llvm.x86.sse2.pause"
            builder.call(builder.module.globals.get(name) or ir.Function(builder.module, shape, name), [])
        return context.get_dummy_value()

    return types.void(), codegen


@kernel
def wait(state: Any, me: int, turn: int) -> int:
    """Pass the ``turn``-th moment of waiting for another thread, and say which is next: spin, then sleep, ever longer."""
    if turn > ENOUGH and me == 0:
        write(state, ALONE, 1)
    if in_the_way(state, me):
        sleep(100)
        return turn + SPINS
    if turn % SPINS < SPINS - 1:
        pause()
    else:
        sleep(8 << min(turn // SPINS, 7))
    return turn + 1


@kernel
def sleep(microseconds: int) -> None:
    """Let another thread have the CPU."""
    _sleep(np.uint32(microseconds))


@kernel
def take(stream: Any, lists: Any, plan: Any, state: Any, me: int, first: int, turn: int) -> Any:
    """(queue, place in ``lists``, part) that thread ``me`` must execute and then ``finish``.

    Part -1: it is the first to come, and must ``share`` the instruction. Queue -1: none is ready; -2: the thread can go.
    Queues are tried from the ``first`` of the plan's on. It is the thread's ``turn``-th attempt in a row.
    """
    count, ended = len(plan) - QUEUES - 1, 0
    alone = read(state, ALONE)
    if alone and me > 0:
        return np.int64(-2), np.int64(-1), np.int64(-1)
    for k in range(count):
        queue = plan[QUEUES + 1 + (first + k) % count]
        unclaimed = read(state, UNCLAIMED + LINE * queue)
        while unclaimed >> me & 1 or ((alone or turn >= PATIENCE) and unclaimed & 0xFFFF):
            part = np.int64(me)
            if not unclaimed >> me & 1:
                part = lowest(unclaimed)
            if exchange(state, UNCLAIMED + LINE * queue, unclaimed, unclaimed ^ 1 << part):
                return queue, unclaimed >> 16, part
            unclaimed = read(state, UNCLAIMED + LINE * queue)
        done = read(state, TAKEN + LINE * queue)
        at = plan[queue] + (done >> 1)
        ended += at == plan[queue + 1]
        if done & 1 or at == plan[queue + 1]:
            continue
        waits = mask(stream, lists[at], WAIT)
        if ready(state, queue, waits) and exchange(state, TAKEN + LINE * queue, done, done + 1):
            producer = 0
            while waits >> producer:
                if waits >> producer & 1:
                    add(state, token(producer, queue), -1)
                producer += 1
            return queue, at, np.int64(-1)
    return np.int64(-2 if ended == count else -1), np.int64(-1), np.int64(-1)


@kernel
def begin(plan: Any, core: int) -> int:
    """The place of a core's first queue among those that a plan says to try."""
    place = 0
    while place < len(plan) - QUEUES - 1 and plan[QUEUES + 1 + place] < 8 * core:
        place += 1
    return place


@kernel
def lowest(bits: int) -> int:
    """The number of the lowest bit that is set."""
    number = np.int64(0)
    while not bits >> number & 1:
        number += 1
    return number


@kernel
def share(state: Any, queue: int, at: int, parts: int, me: int) -> int:
    """Offer the parts of an instruction that the caller took, but for one: its own, if there are so many."""
    part = np.int64(me if me < parts else 0)
    write(state, UNDONE + LINE * queue, parts)
    write(state, UNCLAIMED + LINE * queue, at << 16 | ((1 << parts) - 1) ^ 1 << part)
    return part


@kernel
def ready(state: Any, queue: int, waits: int) -> bool:
    """Whether each queue of a mask has a token for this one. Only who takes the queue takes its tokens."""
    producer = 0
    while waits >> producer:
        if waits >> producer & 1 and read(state, token(producer, queue)) == 0:
            return False
        producer += 1
    return True


@kernel
def finish(stream: Any, state: Any, queue: int, instruction: int, me: int) -> None:
    """Thread ``me`` has done a part; with the last, put the instruction's tokens, and let its queue go on."""
    if add(state, UNDONE + LINE * queue, -1) > 1:
        return
    signals = mask(stream, instruction, SIGNAL)
    consumer = 0
    while signals >> consumer:
        if signals >> consumer & 1:
            add(state, token(queue, consumer), 1)
        consumer += 1
    if KNOWS_CPU:
        state[CPU] = np.int64(me) << 32 | _getcpu()
    add(state, TAKEN + LINE * queue, 1)


@kernel
def in_the_way(state: Any, me: int) -> bool:
    """Whether thread ``me``, which has nothing to do, runs where another one worked last."""
    last = read(state, CPU)
    return KNOWS_CPU and last >> 32 != me and last & 0xFFFFFFFF == _getcpu()


@kernel
def token(producer: int, consumer: int) -> int:
    """The word that counts the tokens of a pair of queues."""
    return TOKENS + QUEUES * consumer + producer


@kernel
def mask(stream: Any, instruction: int, field: int) -> int:
    """The mask of queues in a field of an instruction's header."""
    at, value = instruction * INSTRUCTION_BYTES + field, np.int64(0)
    for i in range(4):
        value |= np.int64(stream[at + i]) << 8 * i
    return value
