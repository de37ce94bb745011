"""Which 16-byte words an instruction touches, in order: the lists of docs/isa.md, section Time.

A list is an int64 array of word numbers (address div 16). Loops are (count, step in bytes), innermost first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ommatid.simulator.reference.rounding import TYPES

Words = np.ndarray[Any, Any]
Loops = Sequence[tuple[int, int]]


def banks(words: Words, count: int) -> list[int]:
    """The bank of each word; ``count`` is a power of two."""
    b = count.bit_length() - 1
    return ((words ^ words >> b ^ words >> 2 * b) % count).tolist()


def joined(run: int, loops: Loops, zero_joins: bool = False) -> tuple[int, Loops]:
    """Loops joined to the run while the next one's step is the run so far; the run and the loops left.

    A loop of one repetition joins whatever its step. With ``zero_joins`` (DMA) a step of 0 joins too, without adding bytes.
    """
    left = list(loops)
    while left:
        count, step = left[0]
        if step == run or count == 1:
            run *= count
        elif not (zero_joins and step == 0):
            break
        del left[0]
    return run, left


def addresses(address: int, loops: Loops) -> Words:
    """The first byte of each repetition, in the order of the loops."""
    at = np.array([address], np.int64)
    for count, step in loops:
        at = (np.arange(count, dtype=np.int64)[:, None] * step + at[None, :]).ravel()
    return at


def touched(starts: Words, run: int | Words) -> Words:
    """The words that the runs of ``run`` bytes (a number, or one each) touch, run by run."""
    first = starts >> 4
    end: Words = starts + run - 1
    counts = (end >> 4) - first + 1
    before = np.cumsum(counts) - counts
    return np.repeat(first - before, counts) + np.arange(counts.sum())


def blocks(address: int, run: int, loops: Loops, size: int) -> int:
    """Blocks of ``size`` bytes that a DMA's runs touch after joining, those of each run counted anew."""
    run, loops = joined(run, loops, zero_joins=True)
    starts = addresses(address, loops)
    return int(np.sum((starts + run - 1) // size - starts // size + 1))


def transfer(address: int, run: int, loops: Loops) -> Words:
    """One SRAM side of a DMA."""
    run, loops = joined(run, loops, zero_joins=True)
    return touched(addresses(address, loops), run)


def size(kind: int) -> int:
    """Bytes of an element of this type."""
    return TYPES[kind].itemsize


def image(address: int, h: int, w: int, run: int, row: int, pixel: int) -> Words:
    """An image of h x w pixels of ``run`` bytes."""
    run, loops = joined(run, [(w, pixel), (h, row)])
    return touched(addresses(address, loops), run)


def window(f: Any) -> Words:
    """A pool's input: of each output pixel, each tap inside the input."""
    y, x, i, j = np.ix_(*(np.arange(n, dtype=np.int64) for n in (f.out_h, f.out_w, f.kh, f.kw)))
    iy = y * f.stride_h - f.pad_top + i * f.dilation_h
    ix = x * f.stride_w - f.pad_left + j * f.dilation_w
    inside = (iy >= 0) & (iy < f.in_h) & (ix >= 0) & (ix < f.in_w)
    return touched((f.src + iy * f.src_row + ix * f.src_pixel)[inside], size(f.src_type) * f.c)


def conv_activations(f: Any, k: int, group: int, pixels: int) -> Words:
    """A conv's input: K positions a step, L output channels a group, sets of ``pixels`` output pixels."""
    p = np.arange(f.out_h * f.out_w, dtype=np.int64)
    y, x = p // f.out_w, p % f.out_w
    element = size(f.src_type)
    steps = []
    for i in range(f.kh):
        iy = y * f.stride_h - f.pad_top + i * f.dilation_h
        in_row = (iy >= 0) & (iy < f.in_h)
        row = f.src + iy * f.src_row
        if f.row_mode and f.kw > 1:  # pixels are dense; a row of one tap is a tap
            left = (x * f.stride_w - f.pad_left) * f.cin
            for at in range(0, f.kw * f.cin, k):
                low = np.maximum(left + at, 0)
                high = np.minimum(left + min(at + k, f.kw * f.cin), f.in_w * f.cin)
                inside = in_row & (high > low)
                steps.append(_sets(row + element * low, row + element * high, inside, pixels))
        else:
            for j in range(f.kw):
                ix = x * f.stride_w - f.pad_left + j * f.dilation_w
                inside = in_row & (ix >= 0) & (ix < f.in_w)
                tap = row + ix * f.src_pixel
                for at in range(0, f.cin, k):
                    end = min(at + k, f.cin)
                    steps.append(_sets(tap + element * at, tap + element * end, inside, pixels))
    return np.tile(np.concatenate(steps), -(-f.cout // group))


def _sets(begin: Words, end: Words, inside: Words, pixels: int) -> Words:
    """Of each pixel the words of bytes begin..end-1, without those that the pixel before it in its set has."""
    first = np.where(inside, begin >> 4, 0)
    last = np.where(inside, end - 1 >> 4, -1)
    first_before, last_before = np.roll(first, 1), np.roll(last, 1)
    first_before[::pixels], last_before[::pixels] = 0, -1
    grid = first[:, None] + np.arange(int((last - first).max()) + 1)
    brought = (grid >= first_before[:, None]) & (grid <= last_before[:, None])
    return grid[(grid <= last[:, None]) & ~brought]


def conv_weights(f: Any, tiles: int, tile_bytes: int) -> Words:
    """The words of all weight tiles."""
    return touched(np.array([f.weights], np.int64), tiles * tile_bytes)


def dwconv_lists(f: Any, k: int, columns: int) -> tuple[Words, Words]:
    """A dwconv's input and weights: K channels by ``columns`` output columns at a time."""
    span = np.arange((columns - 1) * f.stride_w + (f.kw - 1) * f.dilation_w + 1)
    taps, element = np.arange(f.kw), size(f.src_type)
    inputs, weights = [], []
    for channel in range(0, f.c, k):
        run = min(k, f.c - channel)
        for y in range(f.out_h):
            for x in range(0, f.out_w, columns):
                ix = x * f.stride_w - f.pad_left + span
                ix = ix[(ix >= 0) & (ix < f.in_w)]
                for i in range(f.kh):
                    tap = f.weights + (i * f.kw + taps) * f.weights_tap
                    weights.append(touched(tap + channel, run))
                    iy = y * f.stride_h - f.pad_top + i * f.dilation_h
                    if 0 <= iy < f.in_h:
                        pixel = f.src + iy * f.src_row + ix * f.src_pixel
                        inputs.append(touched(pixel + element * channel, element * run))
    return np.concatenate([*inputs, np.zeros(0, np.int64)]), np.concatenate(weights)


def resize(f: Any, rows: Words, columns: Words) -> Words:
    """A resize's input: of each output pixel the elements of weight above 0; the tables are [n, 4] of u16."""
    starts = []
    rows, columns = rows.astype(np.int64), columns.astype(np.int64)
    for first0, first1, u0, u1 in rows.tolist():
        for second0, second1, v0, v1 in columns.tolist():
            for r, u in ((first0, u0), (first1, u1)):
                for c, v in ((second0, v0), (second1, v1)):
                    if u * v > 0:
                        starts.append(f.src + r * f.src_row + c * f.src_pixel)
    return touched(np.array(starts, np.int64), size(f.src_type) * f.c)


def single_elements(at: Words) -> Words:
    """A copy's side: the words of single elements, a word that the element before lies in too left out."""
    words = at >> 4
    return words[np.concatenate([[True], words[1:] != words[:-1]])]
