"""A team of threads that share the work of one instruction after the other, without ever waiting for an absent one.

The leader publishes a job, the ticket: (which, end and begin of the parts that are left). It takes parts from the
begin, helpers from the end, so that each mostly finds in its cache what it wrote before; then the leader waits for the
parts that helpers have taken and not finished. A helper that the operating system does not run has taken nothing, so
nobody waits for it. Whoever waits spins for some microseconds, then sleeps.
Where the leader had to sleep, because a helper was stopped amid a part, the machine is busy: it does the next
instructions alone, twice as many each time. A helper that finds itself on the leader's CPU does not spin.

``state`` is int64, its words in different cache lines.
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

from ommatid.simulator.kernels.compiled import kernel

TICKET, DONE, STOP, CPU, WORDS = 0, 16, 32, 48, 64
SPINS = 500
KNOWS_CPU = sys.platform == "linux"
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
    """Add to a word."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.atomic_rmw("add", _word(context, builder, state, *args[:2]), args[2], "seq_cst")
        return context.get_dummy_value()

    return types.void(state, types.int64, types.int64), codegen


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
def wait(turn: int) -> None:
    """Pass the ``turn``-th moment of waiting for another thread: spin for a while, then sleep, longer each time."""
    if turn % SPINS < SPINS - 1:
        pause()
    else:
        sleep(8 << min(turn // SPINS, 7))


@kernel
def sleep(microseconds: int) -> None:
    """Let another thread have the CPU."""
    _sleep(np.uint32(microseconds))


@kernel
def cpu() -> int:
    """The CPU that runs this thread, or -1."""
    return np.int64(_getcpu()) if KNOWS_CPU else np.int64(-1)


@kernel
def in_the_way(state: Any) -> bool:
    """Whether a helper runs where the leader would."""
    return KNOWS_CPU and state[CPU] == cpu()


@kernel
def publish(state: Any, which: int, parts: int) -> None:
    """Offer a job to the team; ``which`` must grow from job to job."""
    state[CPU] = cpu()
    write(state, DONE, 0)
    write(state, TICKET, which << 32 | parts << 16)


@kernel
def take(state: Any, leader: bool) -> Any:
    """(job, part) that the caller must do and then report with ``add(state, DONE, 1)``; part -1: there is none."""
    while True:
        ticket = read(state, TICKET)
        front, back = ticket & 0xFFFF, ticket >> 16 & 0xFFFF
        if front >= back:
            return np.int64(0), np.int64(-1)
        if exchange(state, TICKET, ticket, ticket + 1 if leader else ticket - 0x10000):
            return ticket >> 32, front if leader else back - 1


@kernel
def settle(state: Any, parts: int) -> bool:
    """Wait until that many parts of the last job are done; whether a helper kept us waiting for long."""
    turn = 0
    while read(state, DONE) < parts:
        wait(turn)
        turn += 1
    return turn > SPINS
