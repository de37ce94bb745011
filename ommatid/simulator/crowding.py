"""How much longer an instruction takes because its own words crowd in few banks: for the fast model.

Words that follow one another at some strides lie in one bank (docs/isa.md, Banks), so that the bank grants fewer a
cycle than the port. Here the first beats of such an instruction are stepped with nobody else at the banks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import entry, kernel
from ommatid.isa.cost import VX_STARTUP_CYCLES
from ommatid.isa.footprint import WORD_BYTES

AHEAD_BEATS = 16  # whose words an engine requests
BEATS = 2048  # that are stepped
GLANCE = 64  # words of a list that tell whether it may crowd


@entry
def copies(r: Any, beats: Any, banks: int, rooms: Any) -> Any:
    """The factor (float64, at least 1) for each ``copy`` of so many beats; ``rooms`` as in ``cycles_alone``."""
    factor, none = np.ones(len(r)), np.empty(0, np.int64)
    for i in range(len(r)):
        size = np.int64(r[i].n0) * r[i].n1 * r[i].n2 * r[i].n3
        first = min(beats[i], BEATS)
        reads, writes = copy_banks(r[i], int(size * first / beats[i]), banks)
        alone = cycles_alone((reads, none, writes), first, banks, rooms, VX_STARTUP_CYCLES - 1) - 1
        factor[i] = max(1.0, alone / first)
    return factor


@entry
def images(sides: Any, beats: Any, banks: int, rooms: Any) -> Any:
    """The factor for instructions that read two images and write one.

    ``sides`` is int64 [instruction, 3, (address, h, w, c, row step, pixel step)] of two that are read and one that
    is written; c = 0: none.
    """
    factor = np.ones(len(sides))
    for i in range(len(sides)):
        crowded = False
        for side in range(3):
            crowded |= crowds(image_banks(sides[i, side], banks, GLANCE), banks)
        if not crowded:
            continue
        first, limits = min(beats[i], BEATS), np.zeros(3, np.int64)
        for side in range(3):
            limits[side] = int(np.ceil(image_words(sides[i, side]) * first / beats[i]))
        a = image_banks(sides[i, 0], banks, limits[0])
        b = image_banks(sides[i, 1], banks, limits[1])
        c = image_banks(sides[i, 2], banks, limits[2])
        alone = cycles_alone((a, b, c), first, banks, rooms, VX_STARTUP_CYCLES - 1) - 1
        factor[i] = max(1.0, alone / first)
    return factor


@entry
def convolutions(
    r: Any, tile_beats: Any, k: int, lanes: int, pixels: int, banks: int, rooms: Any, startup: int
) -> Any:
    """The factor for the beats of each ``conv`` whose tiles, of ``k`` by ``lanes`` weights, take ``tile_beats``."""
    factor, none, weight_words = np.ones(len(r)), np.empty(0, np.int64), k * lanes // WORD_BYTES
    for i in range(len(r)):
        f = r[i]
        length = np.int64(f.kw) * f.cin if f.row_mode else np.int64(f.cin)
        rows = np.int64(f.kh) if f.row_mode else np.int64(f.kh) * f.kw
        sets, steps = (np.int64(f.out_h) * f.out_w + pixels - 1) // pixels, rows * ((length + k - 1) // k)
        tiles = steps * ((np.int64(f.cout) + lanes - 1) // lanes)
        if not crowds(
            set_banks(f, min(GLANCE // pixels, sets * steps), sets, length, k, pixels, banks), banks
        ):
            continue
        first = min(tiles * tile_beats[i], BEATS)
        brought = set_banks(f, first * sets // tile_beats[i], sets, length, k, pixels, banks)
        weights = np.arange(first * weight_words // tile_beats[i]) % banks
        alone = cycles_alone((brought, weights, none), first, banks, rooms, startup)
        factor[i] = max(1.0, alone / first)
    return factor


@kernel
def set_banks(f: Any, count: int, sets: int, length: int, k: int, pixels: int, banks: int) -> Any:
    """The banks of the words that the first ``count`` sets of output pixels bring, step after step of K."""
    found, at = np.empty(count * pixels * (k // WORD_BYTES + 2), np.int64), 0
    width, bits, in_row = np.int64(f.out_w), int(np.log2(banks) + 0.5), (length + k - 1) // k
    steps = in_row * (np.int64(f.kh) if f.row_mode else np.int64(f.kh) * f.kw)
    for number in range(count):
        step, first, last = number // sets % steps, number % sets * pixels, -1
        row, offset = step // in_row, step % in_row * k
        i, j = (row, 0) if f.row_mode else (row // f.kw, row % f.kw)
        for p in range(first, first + pixels):
            if p >= np.int64(f.out_h) * width:
                break
            y = p // width * f.stride_h - f.pad_top + i * f.dilation_h
            x = p % width * f.stride_w - f.pad_left + j * f.dilation_w
            if not (0 <= y < f.in_h and (f.row_mode or 0 <= x < f.in_w)):
                last = -1
                continue
            begin = np.int64(f.src) + y * f.src_row + x * f.src_pixel + offset
            end = (begin + min(k, length - offset) - 1) // WORD_BYTES
            for word in range(
                max(begin // WORD_BYTES, last + 1) if last >= 0 else begin // WORD_BYTES, end + 1
            ):
                found[at] = bank_of(word * WORD_BYTES, banks, bits)
                at += 1
            last = end
    return found[:at]


@kernel
def crowds(found: Any, banks: int) -> bool:
    """Does one bank have more than twice its share of these words?"""
    counts = np.zeros(banks, np.int64)
    for bank in found:
        counts[bank] += 1
    return counts.max() > 2 * max(2.0, len(found) / banks)


@kernel
def bank_of(byte: int, banks: int, bits: int) -> int:
    """The bank of the word in which a byte lies."""
    word = byte // WORD_BYTES
    return (word ^ word >> bits ^ word >> 2 * bits) & (banks - 1)


@kernel
def joined(side: Any) -> Any:
    """An image's loops after joining: h, w, and the bytes of a run."""
    h, w, run, row, pixel = side[1], side[2], side[3], side[4], side[5]
    if pixel == run or w == 1:
        w, run = 1, run * w
        if row == run or h == 1:
            h, run = 1, run * h
    return h, w, run


@kernel
def image_words(side: Any) -> int:
    """Words of an image's list."""
    h, w, run = joined(side)
    count = 0
    for y in range(h if run else 0):
        for x in range(w):
            at = side[0] + y * side[4] + x * side[5]
            count += (at + run - 1) // WORD_BYTES - at // WORD_BYTES + 1
    return count


@kernel
def image_banks(side: Any, banks: int, limit: int) -> Any:
    """The banks of at most ``limit`` words of an image's list, in order."""
    found, count, bits = np.empty(limit, np.int64), 0, int(np.log2(banks) + 0.5)
    h, w, run = joined(side)
    for y in range(h if run else 0):
        for x in range(w):
            at = side[0] + y * side[4] + x * side[5]
            for word in range(at // WORD_BYTES, (at + run - 1) // WORD_BYTES + 1):
                if count == limit:
                    return found
                found[count] = bank_of(word * WORD_BYTES, banks, bits)
                count += 1
    return found[:count]


@kernel
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
            if byte // WORD_BYTES != last[side]:
                found[side, count[side]] = bank_of(byte, banks, bits)
                count[side] += 1
                last[side] = byte // WORD_BYTES
    return found[0, : count[0]], found[1, : count[1]]


@kernel
def cycles_alone(words: Any, beats: int, banks: int, rooms: Any, ahead: int) -> int:
    """Cycles from the first beat to the end of an instruction that reads two lists of words and writes one.

    It requests words from ``ahead`` cycles before the first beat on: those of startup, of which the last of ``vx`` is
    that of the last write.
    ``rooms`` are the grants a cycle of each list; a room of 0 is that of the list before, which shares its port.
    """
    size = np.array([len(words[0]), len(words[1]), len(words[2])])
    done = (np.zeros(size[0] + 1, np.uint8), np.zeros(size[1] + 1, np.uint8), np.zeros(size[2] + 1, np.uint8))
    low, asked = np.zeros(3, np.int64), np.zeros(3, np.int64)  # all before low are granted
    used = np.full(banks, -ahead - 1, np.int64)
    beat, cycle, room = 0, -ahead, 0
    while beat < beats or low[2] < size[2]:
        for k in range(2):
            asked[k] = -(-min(beat + AHEAD_BEATS, beats) * size[k] // beats)
        asked[2] = beat * size[2] // beats
        for k in range(3):
            room = rooms[k] if rooms[k] else room
            for n in range(low[k], asked[k]):
                bank = words[k][n]
                if not done[k][n] and used[bank] != cycle and room:
                    done[k][n], used[bank] = 1, cycle
                    room -= 1
            while done[k][low[k]]:
                low[k] += 1
        ready = low[2] >= max(0, beat - AHEAD_BEATS) * size[2] // beats
        for k in range(2):
            ready &= low[k] >= -(-(beat + 1) * size[k] // beats)
        if cycle >= 0 and beat < beats and ready:
            beat += 1
        cycle += 1
    return cycle
