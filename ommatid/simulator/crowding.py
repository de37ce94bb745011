"""How much longer an instruction takes because its own words crowd in few banks: for the fast model.

Words that follow one another at some strides lie in one bank (docs/isa.md, Banks), so that the bank grants fewer a
cycle than the port. Here the first beats of such an instruction are stepped with nobody else at the banks, or with
others that go first there.

``others`` and ``own`` are uint8 [cycle from the instruction's start on, bank]: the banks that others hold, and, to be
filled, those that the instruction itself holds; either may be short, or empty.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import entry, kernel
from ommatid.isa.cost import VX_STARTUP_CYCLES
from ommatid.isa.footprint import WORD_BYTES

AHEAD_BEATS = 16  # whose words an engine requests
STARVATION_CYCLES = 256  # for which a request has waited that goes first
BEATS = 2048  # that are stepped
WORD_BITS = WORD_BYTES.bit_length() - 1  # of an address that are a byte's in its word
GLANCE = 64  # words of a list that tell whether it may crowd
GLANCE_ROWS = 8  # kernel rows of a dwconv that hold them, but for the narrowest


@entry
def copies(r: Any, beats: Any, banks: int, rooms: Any, others: Any, own: Any) -> Any:
    """The factor (float64, at least 1) for each ``copy`` of so many beats; ``rooms`` as in ``cycles_at_banks``."""
    factor, none = np.ones(len(r)), np.empty(0, np.int64)
    for i in range(len(r)):
        size = np.int64(r[i].n0) * r[i].n1 * r[i].n2 * r[i].n3
        first = min(beats[i], BEATS)
        reads, writes = copy_banks(r[i], int(size * first / beats[i]), banks)
        lists, ahead = (reads, none, writes), VX_STARTUP_CYCLES - 1
        took = cycles_at_banks(lists, first, banks, rooms, ahead, others, own) - 1
        factor[i] = max(1.0, took / first)
    return factor


@entry
def images(sides: Any, beats: Any, banks: int, rooms: Any, others: Any, own: Any) -> Any:
    """The factor for instructions that read two images and write one.

    ``sides`` is int64 [instruction, 3, (address, h, w, bytes of a pixel, row step, pixel step)] of two that are read
    and one that is written; no bytes: none.
    """
    factor = np.ones(len(sides))
    for i in range(len(sides)):
        crowded = len(others) > 0
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
        took = cycles_at_banks((a, b, c), first, banks, rooms, VX_STARTUP_CYCLES - 1, others, own) - 1
        factor[i] = max(1.0, took / first)
    return factor


@entry
def convolutions(
    r: Any,
    tile_beats: Any,
    element: Any,
    tile_words: Any,
    k: int,
    lanes: int,
    pixels: int,
    banks: int,
    rooms: Any,
    startup: Any,
    others: Any,
    own: Any,
) -> Any:
    """The factor for the beats of each ``conv`` whose tiles, of ``k`` by ``lanes`` weights, take ``tile_beats``.

    An activation has ``element`` bytes; ``startup`` is in cycles. All of these are by instruction.
    """
    factor, none = np.ones(len(r)), np.empty(0, np.int64)
    for i in range(len(r)):
        f = r[i]
        length = np.int64(f.kw) * f.cin if f.row_mode else np.int64(f.cin)
        rows = np.int64(f.kh) if f.row_mode else np.int64(f.kh) * f.kw
        sets, steps = (np.int64(f.out_h) * f.out_w + pixels - 1) // pixels, rows * ((length + k - 1) // k)
        tiles = steps * ((np.int64(f.cout) + lanes - 1) // lanes)
        if not crowds(
            set_banks(f, min(GLANCE // pixels, sets * steps), sets, length, k, element[i], pixels, banks),
            banks,
        ):
            continue
        first = min(tiles * tile_beats[i], BEATS)
        brought = set_banks(f, first * sets // tile_beats[i], sets, length, k, element[i], pixels, banks)
        weights = np.arange(first * tile_words[i] // tile_beats[i]) % banks
        took = cycles_at_banks((brought, weights, none), first, banks, rooms, startup[i], others, own)
        factor[i] = max(1.0, took / first)
    return factor


@kernel
def set_banks(
    f: Any, count: int, sets: int, length: int, k: int, element: int, pixels: int, banks: int
) -> Any:
    """The banks of the words that the first ``count`` sets of output pixels bring, step after step of K."""
    most = count * pixels * (k * element // WORD_BYTES + 2)
    found, at, bits = np.empty(most, np.int64), 0, int(np.log2(banks) + 0.5)
    height, width, number = np.int64(f.out_h), np.int64(f.out_w), 0
    while number < count:
        for row in range(np.int64(f.kh) if f.row_mode else np.int64(f.kh) * f.kw):
            i, j = (row, 0) if f.row_mode else (row // f.kw, row % f.kw)
            top, left = i * f.dilation_h - np.int64(f.pad_top), j * f.dilation_w - np.int64(f.pad_left)
            for offset in range(0, length, k):
                run, out_y, out_x = min(k, length - offset) * element, 0, 0
                for _ in range(min(sets, count - number)):
                    last = -1
                    for _ in range(pixels):
                        y, x = out_y * f.stride_h + top, out_x * f.stride_w + left
                        if out_y == height:
                            break
                        out_x += 1
                        if out_x == width:
                            out_x, out_y = 0, out_y + 1
                        if not (0 <= y < f.in_h and (f.row_mode or 0 <= x < f.in_w)):
                            last = -1
                            continue
                        begin = np.int64(f.src) + y * f.src_row + x * f.src_pixel + offset * element
                        end = begin + run - 1 >> WORD_BITS
                        begin >>= WORD_BITS
                        for word in range(max(begin, last + 1) if last >= 0 else begin, end + 1):
                            found[at] = bank_of(word, banks, bits)
                            at += 1
                        last = end
                number += min(sets, count - number)
    return found[:at]


@entry
def depthwise(
    r: Any,
    row_beats: Any,
    element: Any,
    k: int,
    columns: int,
    banks: int,
    rooms: Any,
    startup: int,
    others: Any,
    own: Any,
) -> Any:
    """The factor for each ``dwconv`` that takes ``row_beats`` for a kernel row of ``columns`` output pixels.

    An activation has ``element`` bytes.
    """
    factor, none = np.ones(len(r)), np.empty(0, np.int64)
    for i in range(len(r)):
        f = r[i]
        rows = (np.int64(f.c) + k - 1) // k * f.out_h * ((np.int64(f.out_w) + columns - 1) // columns) * f.kh
        glance = row_banks(f, min(GLANCE_ROWS, rows), k, element[i], columns, banks)[0][:GLANCE]
        if not crowds(glance, banks):
            continue
        count = min(rows, BEATS // row_beats[i])
        inputs, weights = row_banks(f, count, k, element[i], columns, banks)
        lists, first = (inputs, weights, none), count * row_beats[i]
        took = cycles_at_banks(lists, first, banks, rooms, startup, others, own)
        factor[i] = max(1.0, took / first)
    return factor


@kernel
def row_banks(f: Any, count: int, k: int, element: int, columns: int, banks: int) -> Any:
    """The banks of the words that the first ``count`` kernel rows of a ``dwconv`` read: inputs, weights."""
    width, bits = np.int64(f.out_w), int(np.log2(banks) + 0.5)
    span = (columns - 1) * np.int64(f.stride_w) + (np.int64(f.kw) - 1) * f.dilation_w + 1
    most = k * element // WORD_BYTES + 2
    inputs, weights = np.empty(count * span * most, np.int64), np.empty(count * f.kw * most, np.int64)
    found, held, across = 0, 0, (width + columns - 1) // columns
    for number in range(count):
        i, rest = number % f.kh, number // f.kh
        x, rest = rest % across * columns, rest // across
        y, channel = rest % f.out_h, rest // f.out_h * k
        run = min(k, f.c - channel)
        for tap in range(f.kw):
            begin = np.int64(f.weights) + (i * f.kw + tap) * np.int64(f.weights_tap) + channel
            for word in range(begin >> WORD_BITS, (begin + run - 1 >> WORD_BITS) + 1):
                weights[held] = bank_of(word, banks, bits)
                held += 1
        in_y = y * f.stride_h - f.pad_top + i * f.dilation_h
        for column in range(span if 0 <= in_y < f.in_h else 0):
            in_x = x * f.stride_w - f.pad_left + column
            if 0 <= in_x < f.in_w:
                begin = np.int64(f.src) + in_y * f.src_row + in_x * f.src_pixel + channel * element
                for word in range(begin >> WORD_BITS, (begin + run * element - 1 >> WORD_BITS) + 1):
                    inputs[found] = bank_of(word, banks, bits)
                    found += 1
    return inputs[:found], weights[:held]


@kernel
def crowds(found: Any, banks: int) -> bool:
    """Does one bank have more than twice its share of these words?"""
    counts = np.zeros(banks, np.int64)
    for bank in found:
        counts[bank] += 1
    return counts.max() > 2 * max(2.0, len(found) / banks)


@kernel
def bank_of(word: int, banks: int, bits: int) -> int:
    """The bank of a word."""
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
                found[count] = bank_of(word, banks, bits)
                count += 1
    return found[:count]


@kernel
def copy_banks(f: Any, size: int, banks: int) -> Any:
    """The banks of the words that the first ``size`` elements of a ``copy`` read, and of those that they write."""
    found, count = np.empty((2, size), np.int64), np.zeros(2, np.int64)
    bits = int(np.log2(banks) + 0.5)
    steps = ((f.src_s0, f.src_s1, f.src_s2, f.src_s3), (f.dst_s0, f.dst_s1, f.dst_s2, f.dst_s3))
    for side, start in enumerate((np.int64(f.src), np.int64(f.dst))):
        s0, s1, s2, s3 = steps[side]
        at, last, left = 0, -1, size
        n0 = int(f.n0)
        for run in range(-(-size // n0)):
            b, rest = run % f.n1, run // f.n1
            byte = start + b * s1 + rest % f.n2 * s2 + rest // f.n2 * s3
            for _ in range(min(left, n0)):
                word = byte >> WORD_BITS
                if word != last:
                    found[side, at] = bank_of(word, banks, bits)
                    at += 1
                    last = word
                byte += s0
            left -= n0
        count[side] = at
    return found[0, : count[0]], found[1, : count[1]]


@kernel
def cycles_at_banks(words: Any, beats: int, banks: int, rooms: Any, ahead: int, others: Any, own: Any) -> int:
    """Cycles from the first beat to the end of an instruction that reads two lists of words and writes one.

    It requests words from ``ahead`` cycles before the first beat on: those of startup, of which the last of ``vx`` is
    that of the last write.
    ``rooms`` are the grants a cycle of each list; a room of 0 is that of the list before, which shares its port.
    """
    due = (
        due_words(len(words[0]), beats, 1),
        due_words(len(words[1]), beats, 1),
        due_words(len(words[2]), beats, 0),
    )
    # numbers of the words that are requested and not granted, in order, and since when; all before ``low`` are granted
    most = max(len(words[0]), len(words[1]), len(words[2]))
    waiting, since = np.empty((3, most), np.int64), np.empty((3, most), np.int64)
    count, low, asked = np.zeros(3, np.int64), np.zeros(3, np.int64), np.zeros(3, np.int64)
    used = np.full(banks, -ahead - 1, np.int64)
    beat, cycle, room = 0, -ahead, 0
    while beat < beats or low[2] < len(words[2]):
        at = cycle + ahead
        for k in range(3):
            room = rooms[k] if rooms[k] else room
            new = due[k][beat if k == 2 else min(beat + AHEAD_BEATS, beats)]
            left = 0
            for n in range(count[k] + new - asked[k]):
                again = n < count[k]
                word = waiting[k, n] if again else asked[k] + n - count[k]
                first = since[k, n] if again else cycle
                bank = words[k][word]
                held = at < len(others) and others[at, bank] and cycle - first < STARVATION_CYCLES
                if used[bank] != cycle and room and not held:
                    used[bank] = cycle
                    room -= 1
                    if at < len(own):
                        own[at, bank] = 1
                else:
                    waiting[k, left], since[k, left] = word, first
                    left += 1
            asked[k], count[k] = new, left
            low[k] = waiting[k, 0] if left else new
        if cycle >= 0 and beat < beats:
            next_reads = low[0] >= due[0][beat + 1] and low[1] >= due[1][beat + 1]
            if next_reads and low[2] >= due[2][max(0, beat - AHEAD_BEATS)]:
                beat += 1
        cycle += 1
    return cycle


@kernel
def due_words(size: int, beats: int, up: int) -> Any:
    """How many of ``size`` words are due before each beat and after the last: parts of a word count if ``up``."""
    due, whole, part, over = np.empty(beats + 1, np.int64), size // beats, size % beats, 0
    due[0] = 0
    count = 0
    for beat in range(beats):
        count, over = count + whole, over + part
        if over >= beats:
            count, over = count + 1, over - beats
        due[beat + 1] = count + (up if over > 0 else 0)
    return due
