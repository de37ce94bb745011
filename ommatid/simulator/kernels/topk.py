"""``topk``: the first channels of every pixel in order of their numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import kernel


@kernel
def topk(f: Any, sram: Any) -> None:
    """Execute a ``topk`` record: the channels of a pixel are sorted by counting."""
    c, k, values, indices = np.int64(f.c), np.int64(f.k), f.values_on == 1, f.indices_on == 1
    flip = 128 * np.int64(f.src_type) ^ 255 * (
        1 - np.int64(f.order)
    )  # a byte's rank: what comes first is lowest
    place = np.empty(256, np.int64)
    for y in range(np.int64(f.h)):
        for x in range(np.int64(f.w)):
            at = np.int64(f.src) + y * np.int64(f.src_row) + x * np.int64(f.src_pixel)
            source = sram[at : at + c]
            to = np.int64(f.dst) + y * np.int64(f.dst_row) + x * np.int64(f.dst_pixel)
            index = np.int64(f.index) + y * np.int64(f.index_row) + x * np.int64(f.index_pixel)
            begin(source, flip, place)
            for i in range(c):
                channel = c - 1 - i if f.last else i
                rank = np.int64(source[channel]) ^ flip
                if place[rank] < k:
                    if values:
                        sram[to + place[rank]] = source[channel]
                    if indices:
                        put(sram, index + 4 * place[rank], channel)
                place[rank] += 1


@kernel
def begin(source: Any, flip: int, place: Any) -> None:
    """The place of the first byte of each rank (byte ^ flip), had the bytes been sorted by rank."""
    place[:] = 0
    for byte in source:
        place[np.int64(byte) ^ flip] += 1
    total = 0
    for rank in range(256):
        place[rank], total = total, total + place[rank]


@kernel
def put(sram: Any, at: int, value: int) -> None:
    """Write an int32, the lowest byte first."""
    for i in range(4):
        sram[at + i] = np.uint8(value >> 8 * i & 255)
