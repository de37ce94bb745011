"""``topk``: the first channels of every pixel in order of their numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import kernel
from ommatid.simulator.kernels.arithmetic import fetch_one, put_one, size, step


@kernel
def topk(f: Any, sram: Any, wide: Any) -> None:
    """Execute a ``topk`` record: the channels of a pixel are sorted by counting, by their lowest byte first."""
    c, k, values, indices = np.int64(f.c), np.int64(f.k), f.values_on == 1, f.indices_on == 1
    element, place = size(f.src_type, wide), np.empty(256, np.int64)
    given, ordered = np.empty(c, np.int64), np.empty(c, np.int64)  # channels
    for y in range(np.int64(f.h)):
        for x in range(np.int64(f.w)):
            at = np.int64(f.src) + y * np.int64(f.src_row) + x * np.int64(f.src_pixel)
            to = np.int64(f.dst) + y * np.int64(f.dst_row) + x * np.int64(f.dst_pixel)
            index = np.int64(f.index) + y * np.int64(f.index_row) + x * np.int64(f.index_pixel)
            for i in range(c):
                ordered[i] = c - 1 - i if f.last else i
            for byte in range(step(element)):
                given, ordered = ordered, given
                top = byte == step(element) - 1  # the byte that holds the sign
                # a byte's rank: what comes first is lowest
                flip = (128 if top and f.src_type else 0) ^ 255 * (1 - np.int64(f.order))
                sort(sram, at + byte, step(element), flip, given, ordered, place)
            for j in range(k):
                if values:
                    source = at + ordered[j] * step(element)
                    put_one(sram, to + j * step(element), element, fetch_one(sram, source, element))
                if indices:
                    write(sram, index + 4 * j, ordered[j])


@kernel
def sort(sram: Any, at: int, pitch: int, flip: int, given: Any, ordered: Any, place: Any) -> None:
    """Channels in the order of their bytes' ranks (byte ^ flip), equal ones as given."""
    place[:] = 0
    for channel in given:
        place[np.int64(sram[at + channel * pitch]) ^ flip] += 1
    total = 0
    for rank in range(256):
        place[rank], total = total, total + place[rank]
    for channel in given:
        rank = np.int64(sram[at + channel * pitch]) ^ flip
        ordered[place[rank]] = channel
        place[rank] += 1


@kernel
def write(sram: Any, at: int, value: int) -> None:
    """Write an int32, the lowest byte first."""
    for i in range(4):
        sram[at + i] = np.uint8(value >> 8 * i & 255)
