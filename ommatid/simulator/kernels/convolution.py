"""``conv``: activations by weights into accumulators, exactly.

Weights are multiplied where they lie in SRAM, and so are unsigned activations where the window meets no padding.
Else a copy is made of the rows that are needed: padding is the zero point, and numbers are as the path wants them.
``vnni`` multiplies unsigned bytes, so that the sums hold (zero point + 128 if signed) times the sum of a channel's
weights too much; the others multiply numbers less the zero point.

All multiply int8 weights. Unsigned ones are shifted to int8, and what is left of their zero point, times the sum of a
pixel's activations, is taken off the pixel's sums.

16-bit numbers are taken apart into planes, their high bytes, signed, and their low ones, unsigned: the sums of the
products of each two planes, few enough to fit in int32, are added up in int64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import kernel
from ommatid.isa.elements import I16
from ommatid.simulator.kernels.arithmetic import columns, portion, rows
from ommatid.simulator.kernels.multiply import multiply
from ommatid.simulator.kernels.vectors import (
    LANES,
    ints,
    load_longs,
    load_shorts,
    store,
    store_longs,
    wrapped,
)

MOST_QUADS = 8192  # whose products fit in int32: 32768 * 255 * 255 < 2 ** 31


@kernel
def conv(f: Any, sram: Any, acc: Any, array: Any, part: int, parts: int, wide: Any) -> None:
    """Execute a part of a ``conv`` record; ``acc`` is int32, ``array`` what executes it (``MacArray``)."""
    pixels = portion(np.int64(f.out_h) * np.int64(f.out_w), part, parts)
    if wide is None:
        by_bytes(f, sram, acc, array, pixels)
    else:
        by_planes(f, sram, acc, array, pixels)


@kernel
def by_bytes(f: Any, sram: Any, acc: Any, array: Any, pixels: Any) -> None:
    """The sums of some output pixels, of 8-bit activations."""
    sign, step, accumulate = 128 * np.int64(f.src_type), np.int64(f.acc_pixel) // 4, np.int64(f.accumulate)
    zero, sums = np.int64(f.src_zero) + sign, acc[np.int64(f.acc) // 4 + pixels[0] * step :]
    weights = tiles(f, array, sram[np.int64(f.weights) :], f.weights_type == 1, np.int64(f.weights_zero))
    runs, quads, _ = extents(f, array)
    whole = 0, runs, 0, quads
    if array.wide:
        view = staged(f, sram, None, np.empty(0, np.int16), sign, zero, 0, pixels)
        products(f, view, weights, array, 0, pixels, whole, sums, step, accumulate)
    elif f.src_type == 1 or padded(f):
        view = staged(f, sram, None, np.empty(0, np.uint8), sign, 0, zero, pixels)
        products(f, view, weights, array, zero, pixels, whole, sums, step, accumulate)
    else:
        row, pixel = np.int64(f.src_row), np.int64(f.src_pixel)
        origin = np.int64(f.src) - np.int64(f.pad_top) * row - np.int64(f.pad_left) * pixel
        products(f, (sram, row, pixel, origin), weights, array, zero, pixels, whole, sums, step, accumulate)


@kernel
def by_planes(f: Any, sram: Any, acc: Any, array: Any, pixels: Any) -> None:
    """The sums of some output pixels, of 16-bit activations, in 48 bits."""
    count, step = np.int64(f.cout), np.int64(f.acc_pixel) // 4
    total = np.zeros((pixels[1] - pixels[0]) * count, np.int64)
    for weights_plane in range(2 if f.weights_type == I16 else 1):
        weights = plane_tiles(f, array, sram, weights_plane)
        for plane in range(2):
            sign, shift = 128 * plane, 8 * (plane + weights_plane)
            if array.wide:
                view = staged(f, sram, plane, np.empty(0, np.int16), sign, sign, 0, pixels)
                add_products(f, view, weights, array, 0, pixels, total, shift)
            else:
                bytes_ = staged(f, sram, plane, np.empty(0, np.uint8), sign, 0, sign, pixels)
                add_products(f, bytes_, weights, array, sign, pixels, total, shift)
    for p in range(pixels[1] - pixels[0]):
        at = np.int64(f.acc) // 4 + (pixels[0] + p) * step
        for block in range(0, count, LANES):
            left = count - block
            sums = load_longs(total, p * count + block, left)
            if f.accumulate:
                sums = sums + load_longs(acc, at + 2 * block, left)
            store_longs(acc, at + 2 * block, left, wrapped(sums))


@kernel
def add_products(
    f: Any, view: Any, weights: Any, array: Any, zero: int, pixels: Any, total: Any, shift: int
) -> None:
    """Add the sums of the products of two planes, times 2 ** shift."""
    sums, (runs, quads, _) = np.empty(len(total), np.int32), extents(f, array)
    together = max(MOST_QUADS // quads, 1)
    for run in range(0, runs, together):
        for quad in range(0, quads, MOST_QUADS):
            some = run, min(run + together, runs), quad, min(quad + MOST_QUADS, quads)
            products(f, view, weights, array, zero, pixels, some, sums, np.int64(f.cout), 0)
            for i in range(len(total)):
                total[i] += np.int64(sums[i]) << shift


@kernel
def extents(f: Any, array: Any) -> Any:
    """(runs of a window, quads of a run that are multiplied, bytes of a run's 8-bit weights for a group of channels)."""
    runs = np.int64(f.kh) * (1 if f.row_mode else np.int64(f.kw))
    length = np.int64(f.kw) * np.int64(f.cin) if f.row_mode else np.int64(f.cin)
    quads = (length + 4 * array.quads - 1) // (4 * array.quads) * array.quads
    return runs, quads, (length + array.k - 1) // array.k * array.k * array.channels


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
def staged(f: Any, sram: Any, plane: Any, like: Any, sign: int, less: int, padding: int, pixels: Any) -> Any:
    """A copy of the rows that some output pixels' windows see: (elements, row, pixel, begin of the first window of all).

    Elements are of the type of ``like``: bytes, with ``sign`` flipped, less ``less``, and ``padding`` where there is no
    input. ``plane`` is None if the input is of bytes, else which bytes of 16-bit numbers are meant.
    """
    cin, left = np.int64(f.cin), np.int64(f.pad_left)
    first, last = rows(pixels[0], pixels[1], np.int64(f.out_w))
    first, lines = first * np.int64(f.stride_h), (last - first - 1) * np.int64(f.stride_h)
    lines += (np.int64(f.kh) - 1) * np.int64(f.dilation_h) + 1
    width = extent(f)[1]
    row = width * cin
    flip, size = np.uint8(sign), np.int64(1 if plane is None else 2)
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
        run, count = (cin, stop - start) if pixel != size * cin else ((stop - start) * cin, 1)
        for x in range(count):
            to = out[start * cin + x * run : start * cin + (x + 1) * run]
            if plane is None:
                convert(sram[at + x * pixel : at + x * pixel + run], flip, less, to)
            else:
                convert_plane(sram, at + x * pixel + plane, sign, less, to)
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
def tiles(f: Any, array: Any, data: Any, is_signed: bool, zero: int) -> Any:
    """8-bit weights as ``multiply`` takes them: (int8 data, lanes, bytes of a run, of a group, what stands for zero)."""
    lanes, count = array.channels, np.int64(f.cout)
    runs, _, run_bytes = extents(f, array)
    group = runs * run_bytes
    if not is_signed:
        data, zero = signed(data[: (count + lanes - 1) // lanes * group]), zero - 128
    stored = run_bytes // (4 * lanes)
    if lanes % array.vector or stored % array.quads:
        data = regrouped(data, count, lanes, runs, stored, np.uint8(zero & 255))
        lanes, run_bytes = 16, (stored + stored % 2) * 64
        group = runs * run_bytes
    return data, lanes, run_bytes, group, np.int32(zero)


@kernel
def plane_tiles(f: Any, array: Any, sram: Any, plane: int) -> Any:
    """``tiles`` of 8-bit weights, or of a plane of 16-bit ones."""
    weights, (runs, _, run_bytes) = sram[np.int64(f.weights) :], extents(f, array)
    if f.weights_type != I16:
        return tiles(f, array, weights, f.weights_type == 1, np.int64(f.weights_zero))
    size = (np.int64(f.cout) + array.channels - 1) // array.channels * runs * run_bytes
    apart = np.zeros(size + 64, np.uint8)
    for i in range(size):
        apart[i] = weights[2 * i + plane]
    return tiles(f, array, apart, plane == 1, 0)


@kernel
def convert_plane(sram: Any, at: int, sign: int, less: int, out: Any) -> None:
    """As ``convert``, of every other byte."""
    flip, lower, low = ints(np.int32(sign)), ints(np.int32(less)), ints(np.int32(255))
    for i in range(0, len(out), LANES):
        left = len(out) - i
        store(out, i, left, ((load_shorts(sram, at + 2 * i, left) & low) ^ flip) - lower)


@kernel
def products(
    f: Any,
    view: Any,
    weights: Any,
    array: Any,
    zero: int,
    pixels: Any,
    some: Any,
    sums: Any,
    step: int,
    accumulate: int,
) -> None:
    """The sums of some pixels' windows over an image that holds ``zero`` for zero, or over a part of them.

    ``view`` is (image, row, pixel, where the first window of all begins), ``some`` the first and end of runs, and of
    quads of each.
    """
    (image, row, pixel, origin), (data, lanes, run_bytes, group, weights_zero) = view, weights
    first, last, quad, end = some
    places, count, quads = windows(f, row, pixel, origin, pixels), np.int64(f.cout), end - quad
    runs, image = steps(f, row, pixel)[first:last], image[4 * quad :]
    data = data[first * run_bytes + quad * lanes * 4 :]
    correction = np.zeros((count + 15) // 16 * 16, np.int32)
    if zero:
        ones, nowhere = np.ones(4 * quads, np.uint8), np.zeros(len(runs), np.int64)
        totals = np.empty(len(correction), np.int32)
        multiply(array.function, (
            ones, nowhere, 1, totals, 0, count, data, lanes, group, nowhere, len(runs), quads, run_bytes,
            correction, 0,
        ))  # fmt: skip
        for c in range(count):
            correction[c] = np.int32(-totals[c] * np.int32(zero))
    multiply(array.function, (
        image, places, len(places), sums, step, count, data, lanes, group, runs, len(runs), quads, run_bytes,
        correction, accumulate,
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
