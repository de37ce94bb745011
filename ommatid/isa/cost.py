"""Cost formulas: engine cycles of each instruction, from its fields and the target. Part of the ruler (design 9).

A formula takes the records of one instruction and gives int64 cycles; ``docs/isa.md`` says each in prose. DMA
costs here are those of the SRAM port; the timing executor adds DRAM bandwidth, latency and contention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ommatid.isa.compiled import entry, kernel
from ommatid.isa.elements import map_sizes, size, wide
from ommatid.isa.footprint import WORD_BYTES
from ommatid.isa.instructions import BY_MNEMONIC, BY_OPCODE, INSTRUCTIONS, view
from ommatid.isa.operands import conv_steps
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
    load = _ceil(k * lanes * size(r["weights_type"]), target.port_mx_weight_bytes_per_cycle)
    bring = -(-k * target.mx_pixels // target.port_mx_activation_bytes_per_cycle)
    pixels = _ceil(_i(r["out_h"]) * _i(r["out_w"]), target.mx_pixels) * bring
    tiles = _ceil(r["cout"], lanes) * conv_steps(r, target)
    return tiles * np.maximum(passes(r) * pixels, load) + load + MX_PIPELINE_CYCLES


def passes(r: Array) -> Array:
    """Passes of 8 by 8 bits that each product of a ``conv`` or ``dwconv`` takes."""
    by = size(r["weights_type"]) if "weights_type" in (r.dtype.names or ()) else 1
    return _i(size(r["src_type"]) * by)


def _dwconv(r: Array, target: Target) -> Array:
    k = target.mx_k_bytes
    pixels = max(1, target.depthwise_macs_per_cycle // k)
    span = (pixels - 1) * _i(r["stride_w"]) + (_i(r["kw"]) - 1) * _i(r["dilation_w"]) + 1
    span_bytes = span * k * size(r["src_type"])
    row = np.maximum(passes(r) * _i(r["kw"]), _ceil(span_bytes, target.port_mx_activation_bytes_per_cycle))
    blocks = _ceil(r["c"], k) * _i(r["out_h"]) * _ceil(r["out_w"], pixels)
    return blocks * _i(r["kh"]) * row + DW_STARTUP_CYCLES


def _words(pixels: Any, channels: Any, target: Target) -> Array:
    """Elements, with channels rounded up to whole words of the vector engine; it takes 16-bit ones at half rate."""
    return _i(pixels) * _ceil(channels, target.vx_word_elements) * target.vx_word_elements


def _vector(elements: Any, target: Target) -> Array:
    return _ceil(elements, target.vx_elements_per_cycle) + VX_STARTUP_CYCLES


def _image(r: Array, target: Target) -> Array:
    return _words(_i(r["h"]) * _i(r["w"]), r["c"], target) * (1 + wide(r))


def _map(r: Array, target: Target) -> Array:
    sizes = map_sizes(r)
    brought = _words(_i(r["h"]) * _i(r["w"]), r["c"], target) * (sizes.source + sizes.operand)
    port = _ceil(brought, target.port_vx_read_bytes_per_cycle) + VX_STARTUP_CYCLES
    return np.maximum(_vector(_image(r, target), target), port)


def _output(r: Array, target: Target) -> Array:
    return _words(_i(r["out_h"]) * _i(r["out_w"]), r["c"], target) * (1 + wide(r))


def _copy(r: Array, target: Target) -> Array:
    element = _i(r["element_bytes"])
    moved = np.prod([element, *(_i(r[f"n{i}"]) for i in range(4))], axis=0)
    whole_words = (r["src_s0"] == element) & (r["dst_s0"] == element) & (r["n0"] * element >= WORD_BYTES)
    lanes = np.where(whole_words, target.vx_elements_per_cycle, max(1, target.vx_elements_per_cycle // 4))
    beats = -(-moved // lanes)
    for side, port in (
        ("src", target.port_vx_read_bytes_per_cycle),
        ("dst", target.port_vx_write_bytes_per_cycle),
    ):
        beats = np.maximum(beats, _ceil(copy_words(r, side), 2 * max(1, port // WORD_BYTES)))
    return beats + VX_STARTUP_CYCLES


def copy_words(r: Array, side: str) -> Array:
    """Words that a ``copy`` reads or writes (int64); one that the element before lies in too is not counted again.

    From an element to the next is a step of loop k with the loops inside it back at their begin. Whether that leaves
    the word depends on the place in it, and places are counted by their remainders.
    """
    n, s = (np.stack([_i(r[f"{name}{k}"]) for k in range(4)], axis=1) for name in ("n", f"{side}_s"))
    return _copy_words(_i(r[side]), n, s)


@entry
def _copy_words(address: Any, n: Any, s: Any) -> Any:
    total = np.ones(len(n), np.int64)
    for i in range(len(n)):
        back = 0
        for k in range(4):
            places = np.zeros(WORD_BYTES, np.int64)  # how often a step of loop k begins there
            places[(address[i] + back) % WORD_BYTES] = 1
            for j in range(k, 4):
                places = _stepped(places, n[i, j] - (j == k), s[i, j])
            for at in range(WORD_BYTES):
                if (at + s[i, k] - back) // WORD_BYTES != 0:
                    total[i] += places[at]
            back += (n[i, k] - 1) * s[i, k]
    return total


@kernel
def _stepped(places: Any, count: int, step: int) -> Any:
    """How often each place in a block occurs after ``count`` repetitions of a loop."""
    size = len(places)
    stepped = np.zeros(size, np.int64)
    for i in range(min(count, size)):  # places come back after as many steps as there are places, at most
        times, shift = (count - 1 - i) // size + 1, i * step % size
        for at in range(size):
            if places[at]:
                stepped[(at + shift) % size] += places[at] * times
    return stepped


def _dma(side: str, port: str) -> Callable[[Array, Target], Array]:
    def cycles(r: Array, target: Target) -> Array:
        return np.maximum(blocks(r, side, WORD_BYTES), _ceil(_bytes(r), getattr(target, port)))

    return cycles


def _send(r: Array, target: Target) -> Array:
    both = np.maximum(blocks(r, "src", WORD_BYTES), blocks(r, "dst", WORD_BYTES))
    return np.maximum(both, _ceil(_bytes(r), WORD_BYTES))


def _bytes(r: Array) -> Array:
    return _i(r["run"]) * _i(r["n1"]) * _i(r["n2"]) * _i(r["n3"])


def blocks(r: Array, side: str, size: int) -> Array:
    """Aligned blocks of ``size`` bytes that each DMA touches on one side, those of each run counted anew (int64)."""
    n, s = (np.stack([_i(r[f"{name}{i}"]) for i in (1, 2, 3)], axis=1) for name in ("n", f"{side}_s"))
    return _blocks(_i(r[side]), _i(r["run"]), n, s, size)


@entry
def _blocks(address: Any, run: Any, n: Any, s: Any, size: int) -> Any:
    result = np.empty(len(run), np.int64)
    for i in range(len(run)):
        length, k = run[i], 0
        while k < 3 and (n[i, k] == 1 or s[i, k] == length or s[i, k] == 0):
            if s[i, k] == length:
                length *= n[i, k]
            k += 1
        result[i] = _runs_touch(address[i] % size, length, n[i, k:], s[i, k:], size)
    return result


@kernel
def _runs_touch(place: int, run: int, n: Any, s: Any, size: int) -> int:
    """Blocks that all repetitions of a run touch that begins at ``place`` in its block."""
    repeats, aligned = 1, True
    for k in range(len(n)):
        repeats *= n[k]
        aligned &= s[k] % size == 0
    if aligned:
        return repeats * ((place + run - 1) // size + 1)
    places = np.zeros(size, np.int64)  # how often a run begins there
    places[place] = 1
    for k in range(len(n)):
        places = _stepped(places, n[k], s[k])
    total = 0
    for at in range(size):
        total += places[at] * ((at + run - 1) // size + 1)
    return total


#: Mnemonic: the formula.
COSTS: dict[str, Callable[[Array, Target], Array]] = {
    "load": _dma("dst", "port_load_bytes_per_cycle"),
    "fill": _dma("dst", "port_load_bytes_per_cycle"),
    "store": _dma("src", "port_store_bytes_per_cycle"),
    "send": _send,
    "conv": _conv,
    "dwconv": _dwconv,
    "map": _map,
    "pool": lambda r, t: _vector(_output(r, t) * _i(r["kh"]) * _i(r["kw"]), t),
    "reduce": lambda r, t: _vector(_image(r, t), t),
    "resize": lambda r, t: _vector(_output(r, t) * np.where(r["taps"] == 1, 4, 1), t),
    "softmax": lambda r, t: _vector(_image(r, t) * 4, t),
    "lrn": lambda r, t: _vector(_image(r, t) * (_i(r["size"]) + 3), t),
    "norm": lambda r, t: _vector(_image(r, t) * 3, t),
    "topk": lambda r, t: _vector(_image(r, t) * _i(r["k"]), t),
    "copy": _copy,
    "end": lambda r, t: np.ones(len(r), np.int64),
}
if COSTS.keys() != {row.mnemonic for row in INSTRUCTIONS}:
    raise TypeError("cost.COSTS and the instruction table differ")


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
    result, burst = np.zeros(len(stream), np.int64), target.dram_burst_bytes
    for mnemonic, side in (("load", "src"), ("store", "dst")):
        where = np.flatnonzero(stream["opcode"] == BY_MNEMONIC[mnemonic].opcode)
        result[where] = blocks(view(stream, mnemonic)[where], side, burst) * burst
    return result
