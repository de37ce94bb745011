"""How far apart pixels stand in SRAM: where the banks of neighbouring ones would be the same few, a little farther."""

from __future__ import annotations

import functools
from collections.abc import Set
from dataclasses import replace

import numpy as np

from ommatid.compiler.cascade import BY_ROWS
from ommatid.compiler.layers import Concat, Conv, Network
from ommatid.compiler.storage import Spot, Storage, operands
from ommatid.isa.footprint import WORD_BYTES
from ommatid.isa.target import Target

#: Of so many neighbouring pixels, the bank with most words has this many times its share: more makes the array wait
#: (it takes four words in a cycle), and less than ``EVEN`` needs no more room.
PIXELS, UNEVEN, EVEN = 64, 3.0, 2.0


def pitched(network: Network, storage: Storage, target: Target, buffers: Set[str]) -> Storage:
    """The storage with pixels of those of the ``buffers`` farther apart whose banks are uneven; itself if there are none."""
    dense = _must_stay(network, storage)
    spots, sizes = dict(storage.spots), dict(storage.buffer_bytes)
    for buffer in buffers - dense:
        names = storage.members[buffer]
        if any(len(network.tensors[name].shape) != 4 for name in names):
            continue
        old = {storage.spots[name].strides[2] for name in names}
        if len(old) > 1 or any(s % min(old) for name in names for s in storage.spots[name].strides[:2]):
            continue
        pixel = old.pop()
        new = pitch(pixel, target)
        for name in names if new > pixel else ():
            offset, strides = storage.spots[name].offset, storage.spots[name].strides
            moved = tuple(step // pixel * new for step in strides[:3])
            spots[name] = Spot(buffer, offset // pixel * new + offset % pixel, (*moved, strides[3]))
        sizes[buffer] = sizes[buffer] // pixel * new
    return replace(storage, spots=spots, buffer_bytes=sizes) if sizes != storage.buffer_bytes else storage


def _must_stay(network: Network, storage: Storage) -> set[str]:
    """Buffers whose pixels stay side by side: of tensors that the host sees, that operations touch which see their bytes
    as one run, and of images of which a convolution reads rows as runs of bytes because channels do not fill the array."""
    names = set(network.fed | network.kept)
    for layer in network.layers:
        if layer.name not in storage.free_layers and type(layer.operation) not in (*BY_ROWS, Concat):
            names.update(operands(layer), (layer.output,))
        conv = layer.operation
        if isinstance(conv, Conv) and conv.groups == 1 and conv.window.kernel[1] > 1:
            names.add(layer.input_name)
    return {storage.spots[name].buffer for name in names}


@functools.cache
def pitch(pixel: int, target: Target) -> int:
    """Bytes from a pixel of so many bytes to the next."""
    if unevenness(pixel, target) <= UNEVEN:
        return pixel
    words = -(-pixel // WORD_BYTES)
    ways = [(words + more) * WORD_BYTES for more in range(4)]
    return next((way for way in ways if unevenness(way, target) < EVEN), pixel)


def unevenness(pixel: int, target: Target) -> float:
    """Words of the fullest bank, over the mean of all, of the first words of neighbouring pixels; the mean of all places
    where the first may lie."""
    bits = target.sram_banks.bit_length() - 1
    begins = np.arange(1 << 3 * bits)[:, None]
    words = begins + np.arange(PIXELS) * pixel // WORD_BYTES
    banks = (words ^ words >> bits ^ words >> 2 * bits) % target.sram_banks
    counts = np.bincount(
        (begins * target.sram_banks + banks).ravel(), minlength=begins.size * target.sram_banks
    )
    return float(counts.reshape(begins.size, -1).max(axis=1).mean() * target.sram_banks / PIXELS)
