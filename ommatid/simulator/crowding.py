"""How much longer an instruction takes because its own words crowd in few banks: for the fast model.

Words that follow one another at some strides lie in one bank (docs/isa.md, Banks), so that the bank grants fewer a
cycle than the port. A few glances tell whether an instruction has such words; if so its first beats are stepped
(``banks.py``), with nobody else at the banks or with others that go first there: ``others`` and ``own`` as in
``cycles_at_banks``, from the instruction's start on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import entry, inlined, kernel
from ommatid.isa.cost import VX_STARTUP_CYCLES
from ommatid.isa.footprint import WORD_BITS, WORD_BYTES
from ommatid.simulator.banks import AHEAD_BEATS, MOST_BANKS, bank_of, cycles_at_banks

BEATS = 2048  # that are stepped
# Words of a bank in AHEAD_BEATS: an instruction of mx with so many leaves others next to nothing.
MANY = AHEAD_BEATS - 1
GLANCES = 4  # times AHEAD_BEATS that tell whether an instruction may crowd; two if they show little
NONE = np.zeros(0, np.uint8)  # no words


@entry
def copies(r: Any, beats: Any, banks: int, rooms: Any, others: Any, own: Any) -> Any:
    """The factor (float64, at least 1) for each ``copy`` of so many beats; ``rooms`` as in ``cycles_at_banks``."""
    factor = np.ones(len(r))
    for i in range(len(r)):
        size = np.int64(r[i].n0) * r[i].n1 * r[i].n2 * r[i].n3
        first = min(beats[i], BEATS)
        reads, writes = copy_banks(r[i], int(size * first / beats[i]), banks)
        took = cycles_at_banks(reads, NONE, writes, first, rooms, VX_STARTUP_CYCLES - 1, others, own) - 1
        factor[i] = max(1.0, took / first)
    return factor


@kernel
def copy_banks(f: Any, size: int, banks: int) -> Any:
    """The banks of the words that the first ``size`` elements of a ``copy`` read, and of those that they write."""
    found, count = np.empty((2, size), np.uint8), np.zeros(2, np.int64)
    steps = ((f.src_s0, f.src_s1, f.src_s2, f.src_s3), (f.dst_s0, f.dst_s1, f.dst_s2, f.dst_s3))
    for side, start in enumerate((np.int64(f.src), np.int64(f.dst))):
        s0, s1, s2, s3 = steps[side]
        at, last, left = 0, -1, size
        n0 = int(f.n0)
        for run in range(-(-size // n0)):
            b, rest = run % f.n1, run // f.n1
            byte = start + b * s1 + rest % f.n2 * s2 + rest // f.n2 * s3
            more = min(left, n0)
            while more > 0:
                word = byte >> WORD_BITS
                if word != last:
                    found[side, at] = bank_of(word, banks)
                    at += 1
                    last = word
                passed = min(
                    more, (WORD_BYTES - 1 - byte % WORD_BYTES) // s0 + 1 if s0 > 0 else 1
                )  # in this word
                byte, more = byte + passed * s0, more - passed
            left -= n0
        count[side] = at
    return found[0, : count[0]], found[1, : count[1]]


@entry
def images(sides: Any, beats: Any, banks: int, rooms: Any, others: Any, own: Any) -> Any:
    """The factor for instructions that read two images and write one.

    ``sides`` is int64 [instruction, 3, (address, h, w, bytes of a pixel, row step, pixel step)] of two that are read
    and one that is written; no bytes: none.
    """
    factor = np.ones(len(sides))
    for i in range(len(sides)):
        glance, most = 0 if may_crowd(sides[i], beats[i], banks) else GLANCES, 0
        while look(glance, most, others):
            most = max(most, busiest(image_lists(sides[i], beats[i], glance, AHEAD_BEATS, banks), 0))
            glance += 1
        if most > AHEAD_BEATS or len(others) or len(own):
            first = min(beats[i], BEATS)
            a, b, c = image_lists(sides[i], beats[i], 0, first, banks)
            took = cycles_at_banks(a, b, c, first, rooms, VX_STARTUP_CYCLES - 1, others, own) - 1
            factor[i] = max(1.0, took / first)
    return factor


@kernel
def may_crowd(sides: Any, beats: int, banks: int) -> bool:
    """Whether a bank can have many of the words of AHEAD_BEATS: words that follow one another lie in different ones."""
    most = 0
    for side in range(3):
        h, w, run = joined(sides[side])
        if run:
            words = (run + 2 * WORD_BYTES - 2) // WORD_BYTES  # of a run, at most
            runs = min(h * w, -(-h * w * AHEAD_BEATS // beats) + 1)
            most += runs * (-(-min(words, -(-h * w * words * AHEAD_BEATS // beats)) // banks))
    return most > AHEAD_BEATS


@kernel
def image_lists(sides: Any, beats: int, glance: int, of: int, banks: int) -> Any:
    """The banks of the three images' words for ``of`` beats, of a glance: from the row on where it looks."""
    return (
        image_banks(sides[0], beats, glance, of, banks),
        image_banks(sides[1], beats, glance, of, banks),
        image_banks(sides[2], beats, glance, of, banks),
    )


@kernel
def image_banks(side: Any, beats: int, glance: int, of: int, banks: int) -> Any:
    """Those of one image."""
    h, w, run = joined(side)
    limit, count = int(np.ceil(image_words(side) * min(1.0, of / beats))), 0
    found = np.empty(limit, np.uint8)
    for y in range(h * glance // GLANCES, h if run else 0):
        for x in range(w):
            at = side[0] + y * side[4] + x * side[5]
            for word in range(at // WORD_BYTES, (at + run - 1) // WORD_BYTES + 1):
                if count == limit:
                    return found
                found[count] = bank_of(word, banks)
                count += 1
    return found[:count]


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
    if (w == 1 or side[5] % WORD_BYTES == 0) and (h == 1 or side[4] % WORD_BYTES == 0):  # all alike
        return h * w * ((side[0] % WORD_BYTES + run + WORD_BYTES - 1) // WORD_BYTES) if run else 0
    count = 0
    for y in range(h if run else 0):
        for x in range(w):
            at = side[0] + y * side[4] + x * side[5]
            count += (at + run - 1) // WORD_BYTES - at // WORD_BYTES + 1
    return count


@entry
def convolutions(r: Any, tiles: Any, rooms: Any, banks: int, others: Any, own: Any) -> Any:
    """The factor for the beats of each ``conv``; 0: no bank has many of its words.

    ``tiles`` is int64 [instruction, (tiles, beats of a tile, sets of output pixels, pixels of a set, positions of a
    kernel row or tap, K, bytes of an activation, words of a tile of weights, cycles of startup)].
    """
    factor = np.zeros(len(r))
    for i in range(len(r)):
        beats, glance, most = tiles[i, 0] * tiles[i, 1], 0, 0
        few = min(AHEAD_BEATS, beats)
        weights_each = -(-few * tiles[i, 7] // (tiles[i, 1] * banks))  # of a bank: they follow one another
        while look(glance, most, others):
            begin = (beats - few) * glance // (GLANCES - 1)
            seen = set_banks(r[i], begin, begin + few, tiles[i], banks)
            most = max(most, busiest((seen,), weights_each), (len(seen) + rooms[0] - 1) // rooms[0])
            glance += 1
        if most >= MANY or len(others) or len(own):
            first = min(beats, BEATS)
            brought, weights = tile_banks(r[i], 0, first, tiles[i], banks)
            took = cycles_at_banks(brought, weights, NONE, first, rooms, tiles[i, 8], others, own)
            factor[i] = max(1.0, took / first)
    return factor


@kernel
def tile_banks(f: Any, begin: int, end: int, tile: Any, banks: int) -> Any:
    """The banks of the words of a conv's beats ``begin`` to ``end``: activations, weights."""
    beats, words = tile[1], tile[7]
    brought = set_banks(f, begin, end, tile, banks)
    first, last, at = begin * words // beats, -(-end * words // beats), np.int64(f.weights) >> WORD_BITS
    weights = np.empty(last - first, np.uint8)
    for n in range(first, last):
        weights[n - first] = bank_of(at + n, banks)
    return brought, weights


@kernel
def set_banks(f: Any, begin: int, end: int, tile: Any, banks: int) -> Any:
    """The banks of the words of activations: of each step of K, the sets of output pixels."""
    sets, pixels, length, k, element = tile[2], tile[3], tile[4], tile[5], tile[6]
    number, until = begin * sets // tile[1], -(-end * sets // tile[1])
    found, at = np.empty((until - number) * pixels * (k * element // WORD_BYTES + 2), np.uint8), 0
    height, width, cin = np.int64(f.out_h), np.int64(f.out_w), np.int64(f.cin)
    parts, rows = (length + k - 1) // k, np.int64(f.kh) * (1 if f.row_mode else np.int64(f.kw))
    while number < until:
        step, first = number // sets, number % sets
        row, offset = step // parts % rows, step % parts * k
        i, j = (row, 0) if f.row_mode else (row // f.kw, row % f.kw)
        top, left = i * f.dilation_h - np.int64(f.pad_top), j * f.dilation_w - np.int64(f.pad_left)
        out_y, out_x = first * pixels // width, first * pixels % width
        for _ in range(min(sets - first, until - number)):
            before, last = 0, -1  # the words of the pixel before
            for _ in range(pixels):
                y, x = out_y * f.stride_h + top, out_x * f.stride_w + left
                if out_y == height:
                    break
                out_x += 1
                if out_x == width:
                    out_x, out_y = 0, out_y + 1
                inside = max(offset, -x * cin)
                end = min(offset + k, length, (f.in_w - x) * cin)
                if inside >= end or not 0 <= y < f.in_h:
                    before, last = 0, -1
                    continue
                byte = np.int64(f.src) + y * f.src_row + x * f.src_pixel
                low, high = byte + inside * element >> WORD_BITS, byte + end * element - 1 >> WORD_BITS
                for word in range(low, high + 1):
                    if not before <= word <= last:
                        found[at] = bank_of(word, banks)
                        at += 1
                before, last = low, high
            number += 1
    return found[:at]


@entry
def depthwise(
    r: Any, rows: Any, columns: int, rooms: Any, startup: int, banks: int, others: Any, own: Any
) -> Any:
    """The factor, as of ``conv``, for the beats of each ``dwconv``, whose kernel rows are of ``columns`` output pixels.

    ``rows`` is int64 [instruction, (kernel rows, beats of one, channels of one, bytes of an activation)].
    """
    factor = np.zeros(len(r))
    for i in range(len(r)):
        count, beats, glance, most = rows[i, 0], rows[i, 1], 0, 0
        few = min(count, -(-AHEAD_BEATS // beats))
        while look(glance, most, others):
            begin = (count - few) * glance // (GLANCES - 1)
            most = max(most, busiest(row_banks(r[i], begin, begin + few, rows[i], columns, banks), 0))
            glance += 1
        if most >= MANY or len(others) or len(own):
            count = min(count, BEATS // beats)
            inputs, weights = row_banks(r[i], 0, count, rows[i], columns, banks)
            took = cycles_at_banks(inputs, weights, NONE, count * beats, rooms, startup, others, own)
            factor[i] = max(1.0, took / (count * beats))
    return factor


@kernel
def row_banks(f: Any, begin: int, end: int, row: Any, columns: int, banks: int) -> Any:
    """The banks of the words that kernel rows ``begin`` to ``end`` of a ``dwconv`` read: inputs, weights."""
    width, k, element = np.int64(f.out_w), row[2], row[3]
    span = (columns - 1) * np.int64(f.stride_w) + (np.int64(f.kw) - 1) * f.dilation_w + 1
    most = (end - begin) * (k * element // WORD_BYTES + 2)
    inputs, weights = np.empty(most * span, np.uint8), np.empty(most * f.kw, np.uint8)
    found, held, across = 0, 0, (width + columns - 1) // columns
    for number in range(begin, end):
        i, rest = number % f.kh, number // f.kh
        x, rest = rest % across * columns, rest // across
        y, channel = rest % f.out_h, rest // f.out_h * k
        run = min(k, f.c - channel)
        for tap in range(f.kw):
            byte = np.int64(f.weights) + (i * f.kw + tap) * np.int64(f.weights_tap) + channel
            for word in range(byte >> WORD_BITS, (byte + run - 1 >> WORD_BITS) + 1):
                weights[held] = bank_of(word, banks)
                held += 1
        in_y = y * f.stride_h - f.pad_top + i * f.dilation_h
        for column in range(span if 0 <= in_y < f.in_h else 0):
            in_x = x * f.stride_w - f.pad_left + column
            if 0 <= in_x < f.in_w:
                byte = np.int64(f.src) + in_y * f.src_row + in_x * f.src_pixel + channel * element
                for word in range(byte >> WORD_BITS, (byte + run * element - 1 >> WORD_BITS) + 1):
                    inputs[found] = bank_of(word, banks)
                    found += 1
    return inputs[:found], weights[:held]


@inlined
def look(glance: int, most: int, others: Any) -> bool:
    """Whether to look once more for many words of a bank, of which earlier glances showed ``most``."""
    return (
        len(others) == 0
        and glance < GLANCES
        and most <= AHEAD_BEATS
        and (glance < 2 or most > AHEAD_BEATS // 2)
    )


@kernel
def busiest(lists: Any, more: int) -> int:
    """How many of these words, and ``more``, the bank has that has most."""
    counts, most = np.full(MOST_BANKS, more, np.int32), 0
    for words in lists:
        for bank in words:
            counts[bank] += 1
            most = max(most, counts[bank])
    return most
