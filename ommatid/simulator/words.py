"""What instructions ask of their core's banks, in closed form: the fast model's view of the lists of docs/isa.md.

Where runs are not aligned the number of words is that on average over all places; padding counts as if it were
read. The reference machine steps the lists themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from ommatid.isa.cost import VX_STARTUP_CYCLES, copy_words, cost_cycles
from ommatid.isa.footprint import WORD_BYTES
from ommatid.isa.instructions import BY_OPCODE, INSTRUCTIONS, Engine, conv_steps, view
from ommatid.isa.target import Target

Array = np.ndarray[Any, Any]

AHEAD_BEATS = 16  # whose words an engine requests (docs/isa.md, Banks)
BEATS = 2048  # of an instruction that are stepped to see how its own words crowd


def _i(value: Any) -> Array:
    return np.asarray(value).astype(np.int64)


def _ceil(value: Any, by: Any) -> Array:
    return -(-_i(value) // by)


def _run_words(r: Array, run: Any, *places: str) -> Array:
    """Words that a run of bytes touches: exact where all ``places`` are multiples of a word, else on average."""
    aligned = np.all([_i(r[place]) % WORD_BYTES == 0 for place in places], axis=0)
    return np.where(aligned, _ceil(run, WORD_BYTES), 1 + (_i(run) - 1) / WORD_BYTES)


def _image_words(r: Array, side: str, h: str = "h", w: str = "w", channels: Any = None) -> Array:
    c = _i(r["c"]) if channels is None else channels
    pixel, row = f"{side}_pixel", f"{side}_row"
    return np.where(
        _i(r[pixel]) == c,
        _i(r[h]) * _run_words(r, _i(r[w]) * c, side, row),
        _i(r[h]) * _i(r[w]) * _run_words(r, c, side, pixel, row),
    )


def _out_words(r: Array) -> Array:
    return _image_words(r, "dst", "out_h", "out_w")


def _tap_words(r: Array, taps: Any) -> Array:
    """A run of c bytes for each output pixel and tap; those in the padding are not left out."""
    return _i(r["out_h"]) * _i(r["out_w"]) * taps * _run_words(r, r["c"], "src", "src_pixel", "src_row")


def _conv_words(r: Array, target: Target) -> Array:
    k, pixels = target.mx_k_bytes, target.mx_pixels
    steps, groups = conv_steps(r, target), _ceil(r["cout"], target.mx_channels)
    length = np.where(r["row_mode"] == 1, _i(r["kw"]) * _i(r["cin"]), _i(r["cin"]))
    run = np.minimum(length, k)
    apart = np.abs(_i(r["src_pixel"])) * _i(r["stride_w"])
    alone = pixels * _run_words(r, run, "src", "src_pixel", "src_row")
    together = 1 + ((pixels - 1) * apart + run - 1) / WORD_BYTES
    bring = np.minimum(alone, together)
    sets = _ceil(_i(r["out_h"]) * _i(r["out_w"]), pixels)
    return groups * steps * (sets * bring + k * target.mx_channels // WORD_BYTES)


def _dwconv_words(r: Array, target: Target) -> Array:
    k = target.mx_k_bytes
    pixels = max(1, target.depthwise_macs_per_cycle // k)
    span = (pixels - 1) * _i(r["stride_w"]) + (_i(r["kw"]) - 1) * _i(r["dilation_w"]) + 1
    each = np.minimum(_i(r["c"]), k)
    passes = _ceil(r["c"], k) * _i(r["out_h"]) * _ceil(r["out_w"], pixels) * _i(r["kh"])
    taps = _i(r["kw"]) * _run_words(r, each, "weights", "weights_tap")
    return passes * (span * _run_words(r, each, "src", "src_pixel", "src_row") + taps)


def _map_reads(r: Array) -> Array:
    channels = np.where(r["operand_c"] == 1, _i(r["c"]), 1)
    operand = np.where(r["binary"] > 0, _image_words(r, "operand", channels=channels), 0)
    return np.where(r["source"] == 1, 0, _image_words(r, "src")) + operand


#: Mnemonic: words that an instruction reads and writes. DMA moves one a cycle over its port.
WORDS: dict[str, Callable[[Array, Target], tuple[Array | int, Array | int]]] = {
    "conv": lambda r, t: (_conv_words(r, t), 0),
    "dwconv": lambda r, t: (_dwconv_words(r, t), 0),
    "map": lambda r, t: (_map_reads(r), _image_words(r, "dst")),
    "pool": lambda r, t: (_tap_words(r, _i(r["kh"]) * _i(r["kw"])), _out_words(r)),
    "reduce": lambda r, t: (_image_words(r, "src"), 0),
    "resize": lambda r, t: (_tap_words(r, np.where(r["taps"] == 1, 4, 1)), _out_words(r)),
    "softmax": lambda r, t: (3 * _image_words(r, "src"), _image_words(r, "dst")),
    "lrn": lambda r, t: (_image_words(r, "src"), _image_words(r, "dst")),
    "copy": lambda r, t: (copy_words(r, "src"), copy_words(r, "dst")),
}


def bank_words(stream: Array, cycles: Array, target: Target) -> tuple[Array, Array]:
    """(words, pace) of each instruction (float64): words that it asks of its core's banks, and engine cycles if
    they wait for nothing but its own ports; ``cycles`` are those of its cost formula.
    """
    words, pace = np.zeros(len(stream)), cycles.astype(np.float64)
    ports = [target.port_vx_read_bytes_per_cycle, target.port_vx_write_bytes_per_cycle]
    room = [2 * max(1, port // WORD_BYTES) for port in ports]
    for opcode in np.unique(stream["opcode"]):
        where = np.flatnonzero(stream["opcode"] == opcode)
        row = BY_OPCODE[int(opcode)]
        if row.mnemonic not in WORDS:
            words[where] = cycles[where] if row.operands else 0
            continue
        reads, writes = WORDS[row.mnemonic](view(stream, row.mnemonic)[where], target)
        words[where] = reads + writes
        if row.mnemonic == "copy":
            pace[where] = VX_STARTUP_CYCLES + (cycles[where] - VX_STARTUP_CYCLES) * crowding(
                view(stream, "copy")[where], cycles[where] - VX_STARTUP_CYCLES, target.sram_banks, *room
            )
        if row.engine == Engine.VX:
            busiest = np.maximum(np.ceil(reads / room[0]), np.ceil(writes / room[1]))
            pace[where] = np.maximum(pace[where], busiest + VX_STARTUP_CYCLES)
    return words, pace


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def crowding(r: Any, beats: Any, banks: int, read_room: int, write_room: int) -> Any:
    """How many times longer each ``copy`` takes because words of neighbouring beats lie in one bank (float64).

    The first BEATS of each are stepped by the rules of docs/isa.md, Banks, with nobody else at the banks.
    """
    factor = np.ones(len(r))
    for i in range(len(r)):
        size = np.int64(r[i].n0) * r[i].n1 * r[i].n2 * r[i].n3
        first = min(beats[i], BEATS)
        reads, writes = copy_banks(r[i], int(size * first / beats[i]), banks)
        factor[i] = max(1.0, cycles_alone(reads, writes, first, banks, read_room, write_room) / first)
    return factor


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def copy_banks(f: Any, size: int, banks: int) -> Any:
    """The banks of the words that the first ``size`` bytes of a ``copy`` read, and of those that they write."""
    found = np.empty((2, size), np.int64)
    count, last = np.zeros(2, np.int64), np.full(2, -1, np.int64)
    bits = int(np.log2(banks) + 0.5)
    for at in range(size):
        a, rest = at % f.n0, at // f.n0
        b, rest = rest % f.n1, rest // f.n1
        c, d = rest % f.n2, rest // f.n2
        src = np.int64(f.src) + a * f.src_s0 + b * f.src_s1 + c * f.src_s2 + d * f.src_s3
        dst = np.int64(f.dst) + a * f.dst_s0 + b * f.dst_s1 + c * f.dst_s2 + d * f.dst_s3
        for side, byte in enumerate((src, dst)):
            word = byte // WORD_BYTES
            if word != last[side]:
                found[side, count[side]] = (word ^ word >> bits ^ word >> 2 * bits) & (banks - 1)
                count[side] += 1
                last[side] = word
    return found[0, : count[0]], found[1, : count[1]]


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def cycles_alone(reads: Any, writes: Any, beats: int, banks: int, read_room: int, write_room: int) -> int:
    """Cycles from the first beat to the last write of an instruction of vx with these words, alone at the banks."""
    words, rooms, marks = (reads, writes), (read_room, write_room), (len(reads), len(writes))
    done = (np.zeros(len(reads) + 1, np.uint8), np.zeros(len(writes) + 1, np.uint8))
    low = np.zeros(2, np.int64)  # all before it are granted
    used = np.full(banks, -1, np.int64)
    beat, cycle = 0, -VX_STARTUP_CYCLES + 1
    while beat < beats or low[1] < marks[1]:
        asked = (-(-min(beat + AHEAD_BEATS, beats) * marks[0] // beats), beat * marks[1] // beats)
        for port in range(2):
            room = rooms[port]
            for n in range(low[port], asked[port]):
                bank = words[port][n]
                if not done[port][n] and used[bank] != cycle and room:
                    done[port][n], used[bank] = 1, cycle
                    room -= 1
            while done[port][low[port]]:
                low[port] += 1
        late = low[1] < max(0, beat - AHEAD_BEATS) * marks[1] // beats
        if cycle >= 0 and beat < beats and low[0] >= -(-(beat + 1) * marks[0] // beats) and not late:
            beat += 1
        cycle += 1
    return cycle - 1


def vx_elements(stream: Array, target: Target) -> Array:
    """Steps of one element that the vector engine takes for each instruction: its beats times its width (int64)."""
    cycles = cost_cycles(stream, target)
    vx = np.isin(stream["opcode"], [row.opcode for row in INSTRUCTIONS if row.engine == Engine.VX])
    return np.where(vx, (cycles - VX_STARTUP_CYCLES) * target.vx_elements_per_cycle, 0)
