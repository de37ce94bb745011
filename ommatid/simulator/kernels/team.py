"""A team of threads that share the work of one instruction after the other, without ever waiting for an absent one.

The leader publishes a job, the ticket: (which, number of parts, next part). It and the helpers take parts until none
is left; then the leader waits for the parts that helpers have taken and not finished. A helper that the operating
system does not run has taken nothing, so nobody waits for it: on a busy machine the leader does all by itself. Whoever
waits spins for some microseconds, then sleeps.

``state`` is int64, its words in different cache lines.
"""

from __future__ import annotations

import os
import platform
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ommatid.simulator.kernels.compiled import kernel

TICKET, DONE, STOP, WORDS = 0, 16, 32, 48
SPINS = 500
_LONG = ir.IntType(64)
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
    """Pass the ``turn``-th moment of waiting for another thread."""
    if turn < SPINS:
        pause()
    else:
        _sleep(np.uint32(1))


@kernel
def publish(state: Any, which: int, parts: int) -> None:
    """Offer a job to the team; ``which`` must grow from job to job."""
    write(state, DONE, 0)
    write(state, TICKET, which << 32 | parts << 16)


@kernel
def take(state: Any) -> Any:
    """(job, part, parts) that the caller must do and then report with ``add(state, DONE, 1)``; parts 0: there is none."""
    while True:
        ticket = read(state, TICKET)
        part, parts = ticket & 0xFFFF, ticket >> 16 & 0xFFFF
        if part >= parts:
            return np.int64(0), np.int64(0), np.int64(0)
        if exchange(state, TICKET, ticket, ticket + 1):
            return ticket >> 32, part, parts


@kernel
def settle(state: Any, parts: int) -> None:
    """Wait until that many parts of the last job are done."""
    turn = 0
    while read(state, DONE) < parts:
        wait(turn)
        turn += 1
