"""Why a program's instructions take longer than alone, and which of its bytes move only for want of SRAM.

Waits are derived from the times of a run and its tokens. The simulator's accounts of engines (docs/counters.md) say
what an engine lacked at each moment; here the wait belongs to the instruction, and so to a layer, whose last token
ended it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.cost import dram_bytes
from ommatid.isa.instructions import BY_OPCODE, Engine, Memory, queues, view
from ommatid.isa.program import ROLES, Program
from ommatid.profiler.tokens import by_queue, token_pairs
from ommatid.simulator.state import LANES
from ommatid.simulator.timing import Timing, decode

Array = np.ndarray[Any, Any]

#: What keeps an instruction: banks and ports of the SRAM; bursts that the DRAM has not granted, or whose bytes are
#: under way; instructions that are not fetched, or tokens without room; what another instruction computes.
CAUSES = ("bank", "bandwidth", "latency", "fetch", "token")
BANK, BANDWIDTH, LATENCY, FETCH, TOKEN = range(len(CAUSES))
_DMA = (Engine.LOAD, Engine.STORE)


def lost_cycles(program: Program, run: Timing) -> Array:
    """Engine cycles that each instruction of a run waits before it starts, or runs longer than alone (int64
    [instruction, cause]). With its cycles alone they sum to those from its queue's last to its own release."""
    stream = program.instructions[run.begin : run.begin + len(run.start)]
    work, queue = decode(stream, program.target), queues(stream)
    lost = np.zeros((len(stream), len(CAUSES)), np.int64)
    dma = np.isin(queue % LANES, _DMA)
    alone = np.ceil(np.where(dma, work["pace"], work["cost"])).astype(np.int64)
    longer = np.maximum(run.released - run.start - alone, 0)
    lost[dma, BANDWIDTH], lost[~dma, BANK] = longer[dma], longer[~dma]
    members = by_queue(stream)
    since = np.zeros(len(stream), np.int64)
    for mine in members.values():
        since[mine[1:]] = run.released[mine[:-1]]
    last, ends = _last_tokens(stream, run.finish)
    ends = np.clip(ends, since, run.start)
    for q, mine in members.items():
        waited = np.flatnonzero((ends > since) & (last >= 0) & (queue[last] == q))
        for_bytes = np.zeros(len(waited), np.int64)
        if q % LANES in _DMA:
            moving = _busy_until(run.start[mine], run.released[mine])
            for_bytes = moving(ends[waited]) - moving(since[waited])
            landing = np.maximum(ends[waited] - np.maximum(run.released[last[waited]], since[waited]), 0)
            lost[waited, LATENCY] += np.minimum(landing, ends[waited] - since[waited] - for_bytes)
        rest = ends[waited] - since[waited] - for_bytes - lost[waited, LATENCY]
        lost[waited, BANDWIDTH] += for_bytes
        lost[waited, TOKEN] += rest
    lost[:, FETCH] += run.start - ends
    return lost


def _last_tokens(stream: Array, finish: Array) -> tuple[Array, Array]:
    """For each instruction the one whose token it takes last (-1: it takes none), and when that is put."""
    last, ends = np.full(len(stream), -1, np.int64), np.zeros(len(stream), np.int64)
    for makers, takers in token_pairs(stream):
        later = finish[makers] > ends[takers]
        last[takers[later]], ends[takers[later]] = makers[later], finish[makers[later]]
    return last, ends


def _busy_until(start: Array, end: Array) -> Any:
    """The cycles before a moment in which intervals, in order and disjoint, were held, as a function of moments."""
    edges = np.stack([start, end], axis=1).ravel()
    total = np.repeat(np.cumsum(end - start), 2)
    total[::2] -= end - start
    return lambda moments: np.interp(moments, edges, total).astype(np.int64)


def spilled_bytes(program: Program) -> Array:
    """DRAM bytes of each instruction that an SRAM large enough would save (int64): activations on their way out and
    back, and what is read again."""
    moved, symbols = dram_bytes(program.instructions, program.target), program.symbols
    spilled = np.zeros(len(moved), np.int64)
    where = np.flatnonzero(moved)
    if not len(where):
        return spilled
    symbol, asked = (each[where] for each in _dram_operands(program))
    role = np.where(symbol >= 0, symbols["role"][symbol], -1)
    order = np.lexsort((where, symbol))
    total = np.cumsum(asked[order])
    first = np.searchsorted(symbol[order], symbol[order])
    so_far = total - np.concatenate([[0], total])[first]
    size = np.where(symbol >= 0, symbols["bytes"][symbol], 0).astype(np.int64)[order]
    again = np.zeros(len(where), np.int64)
    again[order] = np.clip(so_far - size, 0, asked[order])
    once = again * moved[where] // np.maximum(asked, 1)  # in bursts
    spilled[where] = np.where(role == ROLES.index("activation"), moved[where], once)
    return spilled


def _dram_operands(program: Program) -> tuple[Array, Array]:
    """The symbol of each instruction's operand in DRAM (-1: it has none), and the bytes that it asks for."""
    stream = program.instructions
    symbol, asked = np.full(len(stream), -1, np.int64), np.zeros(len(stream), np.int64)
    for opcode in np.unique(stream["opcode"]).tolist():
        row, mine = BY_OPCODE[opcode], np.flatnonzero(stream["opcode"] == opcode)
        for slot, operand in enumerate(row.operands):
            if operand.memory == Memory.DRAM:
                size, loops = operand.extent(view(stream, row.mnemonic)[mine], program.target)
                for count, _ in loops:
                    size = size * count
                symbol[mine], asked[mine] = program.operands[mine, slot], size
    return symbol, asked
