"""Cost formulas: engine cycles of each instruction, from its fields and the target. Part of the ruler (design 9).

A formula takes the records of one instruction and gives int64 cycles; ``docs/isa.md`` says each in prose. DMA
costs here are those of the SRAM port; the timing executor adds DRAM bandwidth, latency and contention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ommatid.isa.footprint import WORD_BYTES, accesses, byte_count
from ommatid.isa.instructions import BY_OPCODE, INSTRUCTIONS, STREAM, Memory, conv_steps, view
from ommatid.isa.target import Target

Array = np.ndarray[Any, Any]

MX_PIPELINE_CYCLES = 8
DW_STARTUP_CYCLES = 16
VX_STARTUP_CYCLES = 16


def _i(value: Any) -> Array:
    return np.asarray(value).astype(np.int64)


def _ceil(value: Any, by: Any) -> Array:
    return -(-_i(value) // by)


def _conv(r: Array, target: Target) -> Array:
    k, lanes = target.mx_k_bytes, target.mx_channels
    load = -(-k * lanes // target.port_mx_weight_bytes_per_cycle)
    bring = -(-k * target.mx_pixels // target.port_mx_activation_bytes_per_cycle)
    pixels = _ceil(_i(r["out_h"]) * _i(r["out_w"]), target.mx_pixels) * bring
    tiles = _ceil(r["cout"], lanes) * conv_steps(r, target)
    return tiles * np.maximum(pixels, load) + load + MX_PIPELINE_CYCLES


def _dwconv(r: Array, target: Target) -> Array:
    k = target.mx_k_bytes
    pixels = max(1, target.depthwise_macs_per_cycle // k)
    span = (pixels - 1) * _i(r["stride_w"]) + (_i(r["kw"]) - 1) * _i(r["dilation_w"]) + 1
    row = np.maximum(_i(r["kw"]), _ceil(span * k, target.port_mx_activation_bytes_per_cycle))
    passes = _ceil(r["c"], k) * _i(r["out_h"]) * _ceil(r["out_w"], pixels)
    return passes * _i(r["kh"]) * row + DW_STARTUP_CYCLES


def _words(pixels: Any, channels: Any, target: Target) -> Array:
    """Elements, with channels rounded up to whole words of the vector engine."""
    return _i(pixels) * _ceil(channels, target.vx_word_elements) * target.vx_word_elements


def _vector(elements: Any, target: Target) -> Array:
    return _ceil(elements, target.vx_elements_per_cycle) + VX_STARTUP_CYCLES


def _image(r: Array, target: Target) -> Array:
    return _words(_i(r["h"]) * _i(r["w"]), r["c"], target)


def _map(r: Array, target: Target) -> Array:
    elements = _image(r, target)
    streams = (r["source"] != 1).astype(np.int64) + (r["binary"] > 0)
    port = _ceil(elements * streams, target.port_vx_read_bytes_per_cycle) + VX_STARTUP_CYCLES
    return np.maximum(_vector(elements, target), port)


def _output(r: Array, target: Target) -> Array:
    return _words(_i(r["out_h"]) * _i(r["out_w"]), r["c"], target)


def _copy(r: Array, target: Target) -> Array:
    elements = np.prod([_i(r[f"n{i}"]) for i in range(4)], axis=0)
    whole_words = (r["src_s0"] == 1) & (r["dst_s0"] == 1) & (r["n0"] >= WORD_BYTES)
    lanes = np.where(whole_words, target.vx_elements_per_cycle, max(1, target.vx_elements_per_cycle // 4))
    beats = -(-elements // lanes)
    for side, port in (
        ("src", target.port_vx_read_bytes_per_cycle),
        ("dst", target.port_vx_write_bytes_per_cycle),
    ):
        beats = np.maximum(beats, _ceil(copy_words(r, side), 2 * max(1, port // WORD_BYTES)))
    return beats + VX_STARTUP_CYCLES


def copy_words(r: Array, side: str) -> Array:
    """Words that a ``copy`` reads or writes (int64); one that the byte before lies in too is not counted again.

    From a byte to the next is a step of loop k with the loops inside it back at their begin. Whether that leaves
    the word depends on the place in it, and places are counted by their remainders.
    """
    count = [_i(r[f"n{k}"]) for k in range(4)]
    step = [_i(r[f"{side}_s{k}"]) for k in range(4)]
    total, back = np.ones(len(r), np.int64), np.zeros(len(r), np.int64)
    for k in range(4):
        places = np.zeros((len(r), WORD_BYTES), np.int64)
        places[np.arange(len(r)), (_i(r[side]) + back) % WORD_BYTES] = 1
        for j in range(k, 4):
            places = _stepped(places, count[j] - (j == k), step[j])
        leaves = (np.arange(WORD_BYTES) + (step[k] - back)[:, None]) // WORD_BYTES != 0
        total += (places * leaves).sum(axis=1)
        back = back + (count[k] - 1) * step[k]
    return total


def _stepped(places: Array, count: Array, step: Array) -> Array:
    """How often each remainder occurs after ``count`` repetitions of a loop, [record, remainder]."""
    result = np.zeros_like(places)
    for k in range(WORD_BYTES):
        times = np.maximum(0, (count - 1 - k) // WORD_BYTES + 1)
        at = (np.arange(WORD_BYTES) - (k * step)[:, None]) % WORD_BYTES
        result += times[:, None] * np.take_along_axis(places, at, axis=1)
    return result


def _dma(port: str) -> Callable[[Array, Target], Array]:
    def cycles(r: Array, target: Target) -> Array:
        table = accesses(r.view(STREAM), target)
        sram = table[(table["memory"] == Memory.SRAM) & (table["core"] == r["core"][table["instruction"]])]
        return np.maximum(blocks(sram, WORD_BYTES), _ceil(byte_count(sram), getattr(target, port)))

    return cycles


def _send(r: Array, target: Target) -> Array:
    table = accesses(r.view(STREAM), target)
    both = blocks(table, WORD_BYTES).reshape(-1, 2).max(axis=1)
    return np.maximum(both, _ceil(byte_count(table).reshape(-1, 2).max(axis=1), WORD_BYTES))


def blocks(table: Array, size: int) -> Array:
    """Aligned blocks of ``size`` bytes that the runs of each access touch, each run on its own (int64).

    Loops step through the places within a block with a period, so that few places stand for all runs.
    """
    owner, place, weight = np.arange(len(table)), table["address"] % size, np.ones(len(table), np.int64)
    for i in range(table["n"].shape[1]):
        n, step = table["n"][owner, i], table["s"][owner, i] % size
        period = np.minimum(n, size // np.gcd(step, size))
        each = np.repeat(np.arange(len(owner)), period)
        k = np.arange(len(each)) - np.repeat(np.cumsum(period) - period, period)
        weight = weight[each] * ((n[each] - 1 - k) // period[each] + 1)
        key, inverse = np.unique(
            owner[each] * size + (place[each] + k * step[each]) % size, return_inverse=True
        )
        weight = np.bincount(inverse, weight).astype(np.int64)
        owner, place = key // size, key % size
    touched = (place + table["run"][owner] - 1) // size + 1
    return np.bincount(owner, weight * touched, len(table)).astype(np.int64)


#: Mnemonic: the formula.
COSTS: dict[str, Callable[[Array, Target], Array]] = {
    "load": _dma("port_load_bytes_per_cycle"),
    "fill": _dma("port_load_bytes_per_cycle"),
    "store": _dma("port_store_bytes_per_cycle"),
    "send": _send,
    "conv": _conv,
    "dwconv": _dwconv,
    "map": _map,
    "pool": lambda r, t: _vector(_output(r, t) * _i(r["kh"]) * _i(r["kw"]), t),
    "reduce": lambda r, t: _vector(_image(r, t), t),
    "resize": lambda r, t: _vector(_output(r, t) * np.where(r["taps"] == 1, 4, 1), t),
    "softmax": lambda r, t: _vector(_image(r, t) * 4, t),
    "lrn": lambda r, t: _vector(_image(r, t) * (_i(r["size"]) + 3), t),
    "copy": _copy,
    "end": lambda r, t: np.ones(len(r), np.int64),
}
if COSTS.keys() != {row.mnemonic for row in INSTRUCTIONS}:
    raise TypeError("cost.COSTS and the instruction table differ")


#: Opcodes of the instructions that have an operand in DRAM.
_DRAM_OPCODES = [r.opcode for r in INSTRUCTIONS if any(o.memory == Memory.DRAM for o in r.operands)]


def cost_cycles(stream: Array, target: Target) -> Array:
    """Engine cycles of each instruction of a stream (int64)."""
    cycles = np.zeros(len(stream), np.int64)
    for opcode in np.unique(stream["opcode"]):
        where = np.flatnonzero(stream["opcode"] == opcode)
        mnemonic = BY_OPCODE[int(opcode)].mnemonic
        cycles[where] = COSTS[mnemonic](view(stream, mnemonic)[where], target)
    return cycles


def macs(stream: Array, target: Target) -> Array:
    """Multiply-accumulates that each instruction asks for, those on padding included (int64)."""
    result = np.zeros(len(stream), np.int64)
    for mnemonic in ("conv", "dwconv"):
        records = view(stream, mnemonic)
        where = np.flatnonzero(
            stream["opcode"] == next(r.opcode for r in INSTRUCTIONS if r.mnemonic == mnemonic)
        )
        r = records[where]
        per_pixel = _i(r["kh"]) * _i(r["kw"])
        per_pixel *= _i(r["cin"]) * _i(r["cout"]) if mnemonic == "conv" else _i(r["c"])
        result[where] = _i(r["out_h"]) * _i(r["out_w"]) * per_pixel
    return result


def dram_bytes(stream: Array, target: Target) -> Array:
    """DRAM bytes that each instruction moves, every run rounded out to whole bursts (int64)."""
    result = np.zeros(len(stream), np.int64)
    dma = np.flatnonzero(np.isin(stream["opcode"], _DRAM_OPCODES))
    table = accesses(stream[dma], target)
    table = table[table["memory"] == Memory.DRAM]
    burst = target.dram_burst_bytes
    np.add.at(result, dma[table["instruction"]], blocks(table, burst) * burst)
    return result
