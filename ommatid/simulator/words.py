"""What instructions ask of their core's banks, in closed form: the fast model's view of the lists of docs/isa.md.

Where runs are not aligned the number of words is that on average over all places; padding counts as if it were
read. The reference machine steps the lists themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ommatid.isa.cost import (
    DW_STARTUP_CYCLES,
    MX_PIPELINE_CYCLES,
    VX_STARTUP_CYCLES,
    copy_words,
    cost_cycles,
    passes,
)  # fmt: skip
from ommatid.isa.elements import map_sizes, size
from ommatid.isa.footprint import WORD_BYTES
from ommatid.isa.instructions import BY_OPCODE, INSTRUCTIONS, Engine, view
from ommatid.isa.operands import conv_steps
from ommatid.isa.target import Target
from ommatid.simulator import crowding

Array = np.ndarray[Any, Any]


def _i(value: Any) -> Array:
    return np.asarray(value).astype(np.int64)


def _ceil(value: Any, by: Any) -> Array:
    return -(-_i(value) // by)


def _run_words(r: Array, run: Any, *places: str) -> Array:
    """Words that a run of bytes touches: exact where all ``places`` are multiples of a word, else on average."""
    aligned = np.all([_i(r[place]) % WORD_BYTES == 0 for place in places], axis=0)
    return np.where(aligned, _ceil(run, WORD_BYTES), 1 + (_i(run) - 1) / WORD_BYTES)


def _image_words(
    r: Array, side: str, h: str = "h", w: str = "w", channels: Any = None, element: Any = None
) -> Array:
    """Words of an image of ``channels`` (None: c) elements of some bytes (None: those of the side's type)."""
    c = _i(r["c"]) if channels is None else channels
    c = c * _i(size(r[f"{side}_type"]) if element is None else element)
    pixel, row = f"{side}_pixel", f"{side}_row"
    return np.where(
        _i(r[pixel]) == c,
        _i(r[h]) * _run_words(r, _i(r[w]) * c, side, row),
        _i(r[h]) * _i(r[w]) * _run_words(r, c, side, pixel, row),
    )


def _out_words(r: Array) -> Array:
    return _image_words(r, "dst", "out_h", "out_w")


def _tap_words(r: Array, taps: Any) -> Array:
    """A run of c elements for each output pixel and tap; those in the padding are not left out."""
    run = _i(r["c"]) * size(r["src_type"])
    return _i(r["out_h"]) * _i(r["out_w"]) * taps * _run_words(r, run, "src", "src_pixel", "src_row")


def _conv_words(r: Array, target: Target) -> Array:
    k, pixels = target.mx_k_bytes, target.mx_pixels
    steps, groups = conv_steps(r, target), _ceil(r["cout"], target.mx_channels)
    length = np.where(r["row_mode"] == 1, _i(r["kw"]) * _i(r["cin"]), _i(r["cin"]))
    run = np.minimum(length, k) * size(r["src_type"])
    apart = np.abs(_i(r["src_pixel"])) * _i(r["stride_w"])
    alone = pixels * _run_words(r, run, "src", "src_pixel", "src_row")
    together = 1 + ((pixels - 1) * apart + run - 1) / WORD_BYTES
    bring = np.minimum(alone, together)
    sets = _ceil(_i(r["out_h"]) * _i(r["out_w"]), pixels)
    return groups * steps * (sets * bring + _tile_bytes(r, target) // WORD_BYTES)


def _tile_bytes(r: Array, target: Target) -> Array:
    """Bytes of a tile of weights."""
    return _i(size(r["weights_type"])) * (target.mx_k_bytes * target.mx_channels)


def _dwconv_words(r: Array, target: Target) -> Array:
    k = target.mx_k_bytes
    pixels = max(1, target.depthwise_macs_per_cycle // k)
    span = (pixels - 1) * _i(r["stride_w"]) + (_i(r["kw"]) - 1) * _i(r["dilation_w"]) + 1
    each = np.minimum(_i(r["c"]), k)
    rows = _ceil(r["c"], k) * _i(r["out_h"]) * _ceil(r["out_w"], pixels) * _i(r["kh"])
    taps = _i(r["kw"]) * _run_words(r, each, "weights", "weights_tap")
    return rows * (span * _run_words(r, each * size(r["src_type"]), "src", "src_pixel", "src_row") + taps)


def _map_reads(r: Array) -> Array:
    channels = np.where(r["operand_c"] == 1, _i(r["c"]), 1)
    other = _image_words(r, "operand", channels=channels, element=size(r["b_type"]))
    return np.where(r["source"] == 1, 0, _image_words(r, "src")) + np.where(r["binary"] > 0, other, 0)


def _topk_writes(r: Array) -> Array:
    sides = (("dst", size(r["src_type"])), ("index", 4))
    values, indices = (_image_words(r, side, channels=_i(r["k"]), element=each) for side, each in sides)
    return np.where(r["values_on"] == 1, values, 0) + np.where(r["indices_on"] == 1, indices, 0)


#: Mnemonic: words that an instruction reads and writes. DMA moves one a cycle over its port.
WORDS: dict[str, Callable[[Array, Target], tuple[Array | int, Array | int]]] = {
    "conv": lambda r, t: (_conv_words(r, t), 0),
    "dwconv": lambda r, t: (_dwconv_words(r, t), 0),
    "map": lambda r, t: (_map_reads(r), _image_words(r, "dst", element=map_sizes(r).after[-1])),
    "pool": lambda r, t: (_tap_words(r, _i(r["kh"]) * _i(r["kw"])), _out_words(r)),
    "reduce": lambda r, t: (_image_words(r, "src"), 0),
    "resize": lambda r, t: (_tap_words(r, np.where(r["taps"] == 1, 4, 1)), _out_words(r)),
    "softmax": lambda r, t: (3 * _image_words(r, "src"), _image_words(r, "dst")),
    "lrn": lambda r, t: (_image_words(r, "src"), _image_words(r, "dst")),
    "norm": lambda r, t: (2 * _image_words(r, "src"), _image_words(r, "dst")),
    "topk": lambda r, t: (_i(r["k"]) * _image_words(r, "src"), _topk_writes(r)),
    "copy": lambda r, t: (copy_words(r, "src"), copy_words(r, "dst")),
}

#: Instructions of vx whose lists are images.
IMAGES = ("map", "reduce", "lrn")
NOBODY = np.zeros(0, np.int64)  # no banks that anybody holds


def bank_words(stream: Array, cycles: Array, target: Target) -> tuple[Array, Array, Array]:
    """(words, pace, hot) of each instruction: words that it asks of its core's banks, engine cycles if they wait for
    nothing but its own ports and banks (float64), and whether it is of mx and leaves a bank next to nothing (bool);
    ``cycles`` are those of its cost formula.
    """
    words, pace, hot = np.zeros(len(stream)), cycles.astype(np.float64), np.zeros(len(stream), bool)
    for opcode in np.unique(stream["opcode"]):
        where = np.flatnonzero(stream["opcode"] == opcode)
        row = BY_OPCODE[int(opcode)]
        if row.mnemonic not in WORDS:
            words[where] = cycles[where] if row.operands else 0
            continue
        records = view(stream, row.mnemonic)[where]
        reads, writes = WORDS[row.mnemonic](records, target)
        words[where] = reads + writes
        startup = startup_cycles(records, row.mnemonic, target)
        beats = cycles[where] - startup
        busiest: Array | int = 0
        if row.engine == Engine.VX:
            read_room, _, write_room = _vx_rooms(target)
            busiest = np.maximum(np.ceil(reads / read_room), np.ceil(writes / write_room))
        longer = _longer(records, row.mnemonic, beats, target)
        pace[where] = startup + np.maximum(beats * np.maximum(longer, 1), busiest)
        hot[where] = (longer >= 1) & (row.engine == Engine.MX)
    return words, pace, hot


def startup_cycles(r: Array, mnemonic: str, target: Target) -> Array:
    """Cycles before the beats of instructions of mx or vx (int64)."""
    if mnemonic == "conv":
        return MX_PIPELINE_CYCLES + _ceil(_tile_bytes(r, target), target.port_mx_weight_bytes_per_cycle)
    return np.full(len(r), DW_STARTUP_CYCLES if mnemonic == "dwconv" else VX_STARTUP_CYCLES, np.int64)


def _longer(r: Array, mnemonic: str, beats: Array, target: Target) -> Array | float:
    """How many times longer the beats of these instructions take because words crowd in few banks; 0: as for 1."""
    crowd = crowding_of(r, mnemonic, beats, target)
    return crowd.factors() if crowd else 1.0


@dataclass(frozen=True)
class Crowding:
    """Instructions of a mnemonic as an entry of ``crowding.py`` takes them: one of each of the ``columns``."""

    step: Callable[..., Array]
    columns: tuple[Array, ...]
    rest: tuple[Any, ...]

    def factors(self, which: slice = slice(None), others: Array = NOBODY, own: Array = NOBODY) -> Array:
        """How many times longer their beats take because words crowd in few banks (float64; 0: no bank has many).

        ``others`` and ``own`` as in ``crowding.py``, of a single instruction.
        """
        return self.step(*(column[which] for column in self.columns), *self.rest, others, own)


def crowding_of(r: Array, mnemonic: str, beats: Array, target: Target) -> Crowding | None:
    """What tells how these instructions crowd; None where the lists of this mnemonic are not looked at."""
    banks, vx_rooms, mx_rooms = target.sram_banks, _vx_rooms(target), _mx_rooms(target)
    if mnemonic == "conv":
        return Crowding(crowding.convolutions, (r, _tiles(r, target)), (mx_rooms, banks))
    if mnemonic == "dwconv":
        columns, rows = _kernel_rows(r, beats, target)
        return Crowding(crowding.depthwise, (r, rows), (columns, mx_rooms, DW_STARTUP_CYCLES, banks))
    if mnemonic == "copy":
        return Crowding(crowding.copies, (r, beats), (banks, vx_rooms))
    if mnemonic in IMAGES:
        return Crowding(crowding.images, (_sides(r, mnemonic), beats), (banks, vx_rooms))
    return None


def _rooms(*ports: int) -> list[int]:
    """Requests that ports of so many bytes a cycle grant in a cycle."""
    return [2 * max(1, port // WORD_BYTES) for port in ports]


def _vx_rooms(target: Target) -> Array:
    read, write = _rooms(target.port_vx_read_bytes_per_cycle, target.port_vx_write_bytes_per_cycle)
    return np.array([read, 0, write])


def _mx_rooms(target: Target) -> Array:
    ports = target.port_mx_activation_bytes_per_cycle, target.port_mx_weight_bytes_per_cycle
    return np.array([*_rooms(*ports), 1])


def _tiles(r: Array, target: Target) -> Array:
    """The tiles of conv instructions, as ``crowding.convolutions`` takes them."""
    k, activations = target.mx_k_bytes, target.port_mx_activation_bytes_per_cycle
    sets = _ceil(_i(r["out_h"]) * _i(r["out_w"]), target.mx_pixels)
    startup = startup_cycles(r, "conv", target)
    beats = passes(r) * sets * -(-k * target.mx_pixels // activations)
    beats = np.maximum(beats, startup - MX_PIPELINE_CYCLES)
    tiles = conv_steps(r, target) * _ceil(r["cout"], target.mx_channels)
    length = np.where(r["row_mode"] == 1, _i(r["kw"]) * _i(r["cin"]), _i(r["cin"]))
    words = _tile_bytes(r, target) // WORD_BYTES
    table = tiles, beats, sets, target.mx_pixels, length, k, _i(size(r["src_type"])), words, startup
    return np.stack(np.broadcast_arrays(*table), axis=1)


def _kernel_rows(r: Array, beats: Array, target: Target) -> tuple[int, Array]:
    """Output pixels of a kernel row of dwconv instructions, and these rows as ``crowding.depthwise`` takes them."""
    k = target.mx_k_bytes
    columns = max(1, target.depthwise_macs_per_cycle // k)
    rows = _ceil(r["c"], k) * _i(r["out_h"]) * _ceil(r["out_w"], columns) * _i(r["kh"])
    table = rows, beats // rows, k, _i(size(r["src_type"]))
    return columns, np.stack(np.broadcast_arrays(*table), axis=1)


def _sides(r: Array, mnemonic: str) -> Array:
    """The images of instructions of ``IMAGES``, as ``crowding.images`` takes them."""
    sides, zero = np.zeros((len(r), 3, 6), np.int64), np.zeros(len(r), np.int64)
    c = _i(r["c"])
    if mnemonic == "map":
        element, channels = map_sizes(r), np.where(r["operand_c"] == 1, c, 1)
        widths = {
            "src": element.source * c,
            "operand": element.operand * channels,
            "dst": element.after[-1] * c,
        }
    else:
        widths = {"src": size(r["src_type"]) * c, "operand": zero}
        widths["dst"] = size(r["dst_type"]) * c if mnemonic != "reduce" else zero
    for k, (side, width) in enumerate(widths.items()):
        if width.any():
            fields = (r[side], r["h"], r["w"], width, r[f"{side}_row"], r[f"{side}_pixel"])
            sides[:, k] = np.stack([_i(f) for f in fields], axis=1)
    return sides


def vx_elements(stream: Array, target: Target) -> Array:
    """Steps of one element that the vector engine takes for each instruction: its beats times its width (int64)."""
    cycles = cost_cycles(stream, target)
    vx = np.isin(stream["opcode"], [row.opcode for row in INSTRUCTIONS if row.engine == Engine.VX])
    return np.where(vx, (cycles - VX_STARTUP_CYCLES) * target.vx_elements_per_cycle, 0)
