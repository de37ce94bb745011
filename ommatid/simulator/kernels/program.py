"""The loop over a program's instructions: each does all its work before the next begins, on one thread or several."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np

from ommatid.isa.instructions import BY_MNEMONIC, DTYPES, INSTRUCTION_BYTES
from ommatid.simulator.kernels import channels, convolution, depthwise, dma, element, team, window
from ommatid.simulator.kernels.compiled import entry, kernel
from ommatid.simulator.kernels.vectors import record

#: What the MAC array is, and what multiplies for it: bytes along K, channels, the address of a function of
#: multiply.py, and whether that takes int16.
Array = namedtuple("Array", "k channels function wide")
#: All that instructions work on: the stream's bytes, and the memories, those of all cores one after the other.
Chip = namedtuple("Chip", "array cores stream dram sram acc")

MNEMONICS = (
    "load", "fill", "store", "conv", "dwconv", "map", "pool", "reduce", "resize", "softmax", "lrn", "copy", "send",
    "end",
)  # fmt: skip
if set(MNEMONICS) != BY_MNEMONIC.keys():
    raise TypeError("kernels.program and the instruction table differ")
LOAD, FILL, STORE, CONV, DWCONV, MAP, POOL, REDUCE, RESIZE, SOFTMAX, LRN, COPY, SEND, END = (
    BY_MNEMONIC[name].opcode for name in MNEMONICS
)
load_, fill_, store_, conv_, dwconv_, map_, pool_, reduce_, resize_, softmax_, lrn_, copy_, send_, _ = (
    DTYPES[name] for name in MNEMONICS
)

PART = 1 << 15  # work of a part, at least: about the time of so many products


@kernel
def execute(chip: Any, i: int, part: int, parts: int) -> None:
    """Execute one part of instruction ``i``. The fields of ``store`` are also those of ``load`` and ``send``."""
    at = i * INSTRUCTION_BYTES
    opcode, core = chip.stream[at], np.int64(chip.stream[at + 1])
    sram, acc = memory(chip.sram, core, chip.cores), memory(chip.acc, core, chip.cores)
    if opcode == CONV:
        convolution.conv(record(chip.stream, at, conv_), sram, acc, chip.array, part, parts)
    elif opcode == MAP:
        element.map_(record(chip.stream, at, map_), sram, acc, part, parts)
    elif opcode == LOAD:
        for to in range(chip.cores):
            if to == core or record(chip.stream, at, load_).multicast >> to & 1:
                dma.transfer(record(chip.stream, at, store_), chip.dram, memory(chip.sram, to, chip.cores))
    elif opcode == STORE:
        dma.transfer(record(chip.stream, at, store_), sram, chip.dram)
    elif opcode == SEND:
        dma.transfer(
            record(chip.stream, at, store_),
            sram,
            memory(chip.sram, np.int64(record(chip.stream, at, send_).peer), chip.cores),
        )
    elif opcode == FILL:
        dma.fill(record(chip.stream, at, fill_), sram)
    elif opcode == COPY:
        dma.copy(record(chip.stream, at, copy_), sram)
    elif opcode == DWCONV:
        depthwise.dwconv(record(chip.stream, at, dwconv_), sram, acc, part, parts)
    elif opcode == POOL:
        window.pool(record(chip.stream, at, pool_), sram, part, parts)
    elif opcode == RESIZE:
        window.resize(record(chip.stream, at, resize_), sram, part, parts)
    elif opcode == REDUCE:
        channels.reduce(record(chip.stream, at, reduce_), sram, acc)
    elif opcode == SOFTMAX:
        channels.softmax(record(chip.stream, at, softmax_), sram)
    elif opcode == LRN:
        channels.lrn(record(chip.stream, at, lrn_), sram)


@kernel
def memory(all_cores: Any, core: int, cores: int) -> Any:
    """One core's part of a memory; the bytes after it may be read too."""
    return all_cores[core * (len(all_cores) // cores) :]


@kernel
def parts_of(chip: Any, i: int, threads: int) -> int:
    """Into how many parts it pays to cut instruction ``i``; it depends on nothing else."""
    at, work = i * INSTRUCTION_BYTES, np.int64(0)
    opcode = chip.stream[at]
    if opcode == CONV:
        f = record(chip.stream, at, conv_)
        work = np.int64(f.out_h) * f.out_w * f.cin * f.cout * f.kh * f.kw // 8
    elif opcode == DWCONV:
        d = record(chip.stream, at, dwconv_)
        work = np.int64(d.out_h) * d.out_w * d.c * d.kh * d.kw * 8
    elif opcode == MAP:
        m = record(chip.stream, at, map_)
        work = np.int64(m.h) * m.w * m.c * 8
    elif opcode == POOL:
        p = record(chip.stream, at, pool_)
        work = np.int64(p.out_h) * p.out_w * p.c * p.kh * p.kw * 4
    elif opcode == RESIZE:
        r = record(chip.stream, at, resize_)
        work = np.int64(r.out_h) * r.out_w * r.c * 8
    return 1 if work < 2 * PART else threads if work < 8 * PART else 2 * threads


@entry
def work(chip: Any, order: Any, state: Any, threads: int, leads: bool) -> None:
    """Execute the instructions of ``order`` one after the other, the large ones together with the other threads.

    One thread leads; the others call it with the same arguments and ``leads`` False. (``execute`` is called at one
    place, because its code is compiled into each that calls it.)
    """
    following, shared, turn = 0, 0, 0
    alone, rest = 0, 8  # no sharing before instruction ``alone``
    while True:
        at, part = team.take(state, leads)
        if part < 0 and not leads:
            if team.read(state, team.STOP):
                return
            if team.in_the_way(state):
                team.sleep(100)
            team.wait(turn)
            turn += 1
            continue
        parts = parts_of(chip, order[at], threads) if part >= 0 else np.int64(1)
        if part < 0:
            if team.settle(state, shared):
                alone, rest = following + rest, min(2 * rest, 4096)
            elif shared:
                rest = max(8, rest - rest // 8)
            if following == len(order):
                team.write(state, team.STOP, 1)
                return
            at, part = np.int64(following), np.int64(0)
            following += 1
            shared = parts_of(chip, order[at], threads) if threads > 1 and at >= alone else 1
            if shared > 1:
                team.publish(state, at, shared)
                continue
            shared = 0
        execute(chip, order[at], part, parts)
        if parts > 1:
            team.add(state, team.DONE, 1)
        turn = 0
