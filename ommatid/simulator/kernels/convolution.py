"""``conv``: 8-bit activations by 8-bit weights into int32 accumulators, exactly.

Weights are multiplied where they lie in SRAM, and so are unsigned activations where the window meets no padding.
Else a copy is made of the rows that are needed: padding is the zero point, and numbers are as the path wants them.
``vnni`` multiplies unsigned bytes, so that the sums hold (zero point + 128 if signed) times the sum of a channel's
weights too much; the others multiply numbers less the zero point.

All multiply int8 weights. Unsigned ones are shifted to int8, and what is left of their zero point, times the sum of a
pixel's activations, is taken off the pixel's sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import kernel
from ommatid.simulator.kernels.arithmetic import columns, portion, rows
from ommatid.simulator.kernels.multiply import multiply


@kernel
def conv(f: Any, sram: Any, acc: Any, array: Any, part: int, parts: int) -> None:
    """Execute a part of a ``conv`` record; ``acc`` is int32, ``array`` what executes it (``MacArray``)."""
    zero = np.int64(f.src_zero) + 128 * np.int64(f.src_type)
    pixels = portion(np.int64(f.out_h) * np.int64(f.out_w), part, parts)
    if array.wide:
        image, row, pixel, origin = staged(f, sram, np.empty(0, np.int16), zero, 0, pixels)
        products(f, image, row, pixel, origin, sram, acc, array, 0, pixels)
    elif f.src_type == 1 or padded(f):
        image, row, pixel, origin = staged(f, sram, np.empty(0, np.uint8), 0, zero, pixels)
        products(f, image, row, pixel, origin, sram, acc, array, zero, pixels)
    else:
        row, pixel = np.int64(f.src_row), np.int64(f.src_pixel)
        origin = np.int64(f.src) - np.int64(f.pad_top) * row - np.int64(f.pad_left) * pixel
        products(f, sram, row, pixel, origin, sram, acc, array, zero, pixels)


@kernel
def extent(f: Any) -> Any:
    """Rows and columns from the first window's begin to the last window's end."""
    height = (np.int64(f.out_h) - 1) * np.int64(f.stride_h) + (np.int64(f.kh) - 1) * np.int64(f.dilation_h)
    width = (np.int64(f.out_w) - 1) * np.int64(f.stride_w) + (np.int64(f.kw) - 1) * np.int64(f.dilation_w)
    return height + 1, width + 1


@kernel
def padded(f: Any) -> bool:
    """Whether some taps lie outside the input."""
    height, width = extent(f)
    begins = f.pad_top > 0 or f.pad_left > 0
    return begins or height > np.int64(f.in_h) + f.pad_top or width > np.int64(f.in_w) + f.pad_left


@kernel
def staged(f: Any, sram: Any, like: Any, less: int, padding: int, pixels: Any) -> Any:
    """A copy of the rows that some output pixels' windows see: (elements, row, pixel, begin of the first window of all).

    Elements are of the type of ``like``: numbers (signed ones plus 128) less ``less``, and ``padding`` where there
    is no input.
    """
    cin, left = np.int64(f.cin), np.int64(f.pad_left)
    first, last = rows(pixels[0], pixels[1], np.int64(f.out_w))
    first, lines = first * np.int64(f.stride_h), (last - first - 1) * np.int64(f.stride_h)
    lines += (np.int64(f.kh) - 1) * np.int64(f.dilation_h) + 1
    width = extent(f)[1]
    row = width * cin
    flip = np.uint8(128 * np.int64(f.src_type))
    image = np.empty(lines * row + 64, like.dtype)
    start, stop = max(left, 0), max(min(width, np.int64(f.in_w) + left), max(left, 0))
    for line in range(lines):
        out = image[line * row : (line + 1) * row]
        y = first + line - np.int64(f.pad_top)
        if y < 0 or y >= np.int64(f.in_h) or stop == start:
            fill(out, padding)
            continue
        fill(out[: start * cin], padding)
        fill(out[stop * cin :], padding)
        at, pixel = np.int64(f.src) + y * np.int64(f.src_row), np.int64(f.src_pixel)
        at += (start - left) * pixel
        run, count = (cin, stop - start) if pixel != cin else ((stop - start) * cin, 1)
        for x in range(count):
            to = out[start * cin + x * run : start * cin + (x + 1) * run]
            convert(sram[at + x * pixel : at + x * pixel + run], flip, less, to)
    return image, row, cin, -first * row


@kernel
def fill(out: Any, value: int) -> None:
    """Every element is the value."""
    for i in range(len(out)):
        out[i] = value


@kernel
def convert(source: Any, flip: int, less: int, out: Any) -> None:
    """out = (source ^ flip) - less."""
    for i in range(len(out)):
        out[i] = np.int32(np.int32(source[i] ^ flip) - np.int32(less))


@kernel
def products(
    f: Any,
    image: Any,
    row: int,
    pixel: int,
    origin: int,
    sram: Any,
    acc: Any,
    array: Any,
    zero: int,
    pixels: Any,
) -> None:
    """The sums of some pixels' windows over an image that begins at ``origin`` and holds ``zero`` for zero."""
    places = windows(f, row, pixel, origin, pixels)
    runs = steps(f, row, pixel)
    length = np.int64(f.kw) * np.int64(f.cin) if f.row_mode else np.int64(f.cin)
    quads, lanes = (length + 4 * array.quads - 1) // (4 * array.quads) * array.quads, array.channels
    run_bytes = (length + array.k - 1) // array.k * array.k * lanes
    group, data, at = len(runs) * run_bytes, sram, np.int64(f.weights)
    if f.weights_type == 0:
        data, at = signed(sram[at : at + (np.int64(f.cout) + lanes - 1) // lanes * group]), 0
    weights_zero = np.int32(np.int32(f.weights_zero) - 128 * (1 - np.int32(f.weights_type)))
    stored = run_bytes // (4 * lanes)
    if lanes % array.vector or stored % array.quads:
        data, at = regrouped(data[at:], np.int64(f.cout), lanes, len(runs), stored, np.uint8(weights_zero)), 0
        lanes, run_bytes = 16, (stored + stored % 2) * 64
        group = len(runs) * run_bytes
    weights, count = data[at:], np.int64(f.cout)
    step = np.int64(f.acc_pixel) // 4
    sums = acc[np.int64(f.acc) // 4 + pixels[0] * step :]
    correction = np.zeros((count + 15) // 16 * 16, np.int32)
    if zero:
        ones, nowhere = np.ones(4 * quads, np.uint8), np.zeros(len(runs), np.int64)
        totals = np.empty(len(correction), np.int32)
        multiply(array.function, (
            ones, nowhere, 1, totals, 0, count, weights, lanes, group, nowhere, len(runs), quads, run_bytes,
            correction, 0,
        ))  # fmt: skip
        for c in range(count):
            correction[c] = np.int32(-totals[c] * np.int32(zero))
    multiply(array.function, (
        image, places, len(places), sums, step, count, weights, lanes, group, runs, len(runs), quads, run_bytes,
        correction, np.int64(f.accumulate),
    ))  # fmt: skip
    if weights_zero:
        ones, totals = np.ones(len(runs) * run_bytes, np.uint8), np.empty(len(places), np.int32)
        correction[0] = -zero * np.int64(4 * quads * len(runs))
        multiply(array.function, (
            image, places, len(places), totals, 1, 1, ones, lanes, len(ones), runs, len(runs), quads, run_bytes,
            correction, 0,
        ))  # fmt: skip
        for p in range(len(places)):
            for c in range(count):
                sums[p * step + c] -= np.int32(weights_zero * totals[p])


@kernel
def signed(weights: Any) -> Any:
    """Unsigned weights, less 128, with some room behind them."""
    out = np.empty(len(weights) + 64, np.uint8)
    for i in range(len(weights)):
        out[i] = weights[i] ^ np.uint8(128)
    return out


@kernel
def windows(f: Any, row: int, pixel: int, origin: int, pixels: Any) -> Any:
    """Where the windows of some output pixels begin."""
    width, step = np.int64(f.out_w), np.int64(f.stride_w) * pixel
    places = np.empty(pixels[1] - pixels[0], np.int64)
    for y in range(*rows(pixels[0], pixels[1], width)):
        begin = origin + y * np.int64(f.stride_h) * row
        for x in range(*columns(pixels[0], pixels[1], y, width)):
            places[y * width + x - pixels[0]] = begin + x * step
    return places


@kernel
def steps(f: Any, row: int, pixel: int) -> Any:
    """Where the runs of the window begin: kernel rows (``row_mode``) or taps."""
    taps = 1 if f.row_mode else np.int64(f.kw)
    runs = np.empty(np.int64(f.kh) * taps, np.int64)
    for i in range(np.int64(f.kh)):
        for j in range(taps):
            runs[i * taps + j] = i * np.int64(f.dilation_h) * row + j * np.int64(f.dilation_w) * pixel
    return runs


@kernel
def regrouped(weights: Any, count: int, lanes: int, runs: int, quads: int, filler: int) -> Any:
    """The weights of an array of any other shape, in groups of 16 channels, an even number of quads a run."""
    group, even = runs * quads * lanes * 4, quads + quads % 2
    out = np.full((count + 15) // 16 * runs * even * 64, filler)
    for c in range(count):
        for q in range(runs * quads):
            source = c // lanes * group + (q * lanes + c % lanes) * 4
            to = (c // 16 * runs + q // quads) * even + q % quads
            for k in range(4):
                out[to * 64 + c % 16 * 4 + k] = weights[source + k]
    return out
