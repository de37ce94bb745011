"""The loop over a program's instructions, on one thread or several."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np

from ommatid.isa.compiled import entry, kernel
from ommatid.isa.instructions import BY_MNEMONIC, DTYPES, INSTRUCTION_BYTES
from ommatid.simulator.kernels import channels, convolution, depthwise, dma, element, team, topk, window
from ommatid.simulator.kernels.vectors import record

#: What the MAC array is, and what multiplies for it: bytes along K, channels, the address of a function of
#: multiply.py, whether that takes int16, its vectors' channels, and the quads that it takes at a time.
MacArray = namedtuple("MacArray", "k channels function wide vector quads")
#: All that instructions work on: the stream's bytes, and the memories, those of all cores one after the other. And
#: which instructions have 16-bit elements (bool), None if none has: kernels for these are then not compiled.
Chip = namedtuple("Chip", "array cores stream wide dram sram acc")

GRAIN = 4096  # of work worth a part, in about a cycle of the host

MNEMONICS = (
    "load", "fill", "store", "conv", "dwconv", "map", "pool", "reduce", "resize", "softmax", "lrn", "norm", "topk",
    "copy", "send", "end",
)  # fmt: skip
if set(MNEMONICS) != BY_MNEMONIC.keys():
    raise TypeError("kernels.program and the instruction table differ")
LOAD, FILL, STORE, CONV, DWCONV, MAP, POOL, REDUCE, RESIZE, SOFTMAX, LRN, NORM, TOPK, COPY, SEND, END = (
    BY_MNEMONIC[name].opcode for name in MNEMONICS
)
(
    load_, fill_, store_, conv_, dwconv_, map_, pool_, reduce_, resize_, softmax_, lrn_, norm_, topk_, copy_, send_, _,
) = (DTYPES[name] for name in MNEMONICS)  # fmt: skip


@kernel
def execute(chip: Any, i: int, part: int, parts: int, wide: Any) -> None:
    """Execute a part of instruction ``i``; ``wide`` is that of ``chip``."""
    if wide is None:
        perform(chip, i, part, parts, None)
    elif wide[i]:
        perform(chip, i, part, parts, True)
    else:
        perform(chip, i, part, parts, None)


@kernel
def perform(chip: Any, i: int, part: int, parts: int, wide: Any) -> None:
    """Execute a part of instruction ``i``. The fields of ``store`` are also those of ``load`` and ``send``.

    ``wide`` is None if all of its elements are bytes (see ``arithmetic.py``).
    """
    at = i * INSTRUCTION_BYTES
    opcode, core = chip.stream[at], np.int64(chip.stream[at + 1])
    sram, acc = memory(chip.sram, core, chip.cores), memory(chip.acc, core, chip.cores)
    if opcode == CONV:
        convolution.conv(record(chip.stream, at, conv_), sram, acc, chip.array, part, parts, wide)
    elif opcode == MAP:
        element.map_(record(chip.stream, at, map_), sram, acc, part, parts, wide)
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
        dma.copy(record(chip.stream, at, copy_), sram, wide)
    elif opcode == DWCONV:
        depthwise.dwconv(record(chip.stream, at, dwconv_), sram, acc, part, parts, wide)
    elif opcode == POOL:
        window.pool(record(chip.stream, at, pool_), sram, wide)
    elif opcode == RESIZE:
        window.resize(record(chip.stream, at, resize_), sram, wide)
    elif opcode == REDUCE:
        channels.reduce(record(chip.stream, at, reduce_), sram, acc, wide)
    elif opcode == SOFTMAX:
        channels.softmax(record(chip.stream, at, softmax_), sram, wide)
    elif opcode == LRN:
        channels.lrn(record(chip.stream, at, lrn_), sram, wide)
    elif opcode == NORM:
        channels.norm(record(chip.stream, at, norm_), sram, wide)
    elif opcode == TOPK:
        topk.topk(record(chip.stream, at, topk_), sram, wide)


@kernel
def divided(chip: Any, i: int, threads: int) -> int:
    """Into how many parts so many threads divide instruction ``i``: one for each, if there is work for them."""
    at, pixels, work = i * INSTRUCTION_BYTES, np.int64(1), np.int64(0)
    opcode = chip.stream[at]
    if opcode == CONV:
        conv = record(chip.stream, at, conv_)
        pixels = np.int64(conv.out_h) * np.int64(conv.out_w)
        work = np.int64(conv.kh) * np.int64(conv.kw) * np.int64(conv.cin) * np.int64(conv.cout) // 64
    elif opcode == DWCONV:
        dwconv = record(chip.stream, at, dwconv_)
        pixels = np.int64(dwconv.out_h) * np.int64(dwconv.out_w)
        work = np.int64(dwconv.kh) * np.int64(dwconv.kw) * np.int64(dwconv.c) // 4
    elif opcode == MAP:
        one = record(chip.stream, at, map_)
        pixels, work = np.int64(one.h) * np.int64(one.w), np.int64(one.c) // 2
    return min(max(pixels * work // GRAIN, 1), pixels, threads)


@kernel
def memory(all_cores: Any, core: int, cores: int) -> Any:
    """One core's part of a memory; the bytes after it may be read too."""
    return all_cores[core * (len(all_cores) // cores) :]


@entry
def work(chip: Any, lists: Any, plan: Any, state: Any, me: int, threads: int) -> None:
    """Execute the instructions of ``lists`` one after the other, or as thread ``me`` of several queue by queue.

    The latter if ``plan`` (team.py) has queues. Threads begin their search for work at different cores.
    (``execute`` is called at one place, because its code is compiled into each that calls it.)
    """
    alone, following, turn, queue = len(plan) == 0, 0, 0, np.int64(0)
    part, parts = np.int64(0), np.int64(1)
    first = 0 if alone else team.begin(plan, me % chip.cores)
    while True:
        if alone:
            if following == len(lists):
                return
            instruction = lists[following]
            following += 1
        else:
            queue, at, part = team.take(chip.stream, lists, plan, state, me, first, turn)
            if queue < 0:
                if queue == -2:
                    return
                turn = team.wait(state, me, turn)
                continue
            instruction = lists[at]
            parts = divided(chip, instruction, threads)
            if part < 0:
                part = team.share(state, queue, at, parts, me)
        execute(chip, instruction, part, parts, chip.wide)
        if not alone:
            team.finish(chip.stream, state, queue, instruction, me)
            turn = 0
