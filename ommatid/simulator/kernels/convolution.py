"""``conv``: 8-bit activations by int8 weights into int32 accumulators, exactly.

The products are summed by float32 matrix multiplications of NumPy's BLAS: with at most EXACT_DEPTH products in
a sum, every partial sum is an integer below 2**24, so that no order of summation rounds.

They are done in small pieces, of which OpenBLAS computes each on the calling thread. It hands larger ones
(over 2**18 products, or 9216 with one row) to threads that wait for each other, for milliseconds where other
work shares the cores.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

Array = np.ndarray[Any, Any]

EXACT_DEPTH = 512  # times 255 * 128, the largest product, stays below 2**24
ROWS, COLUMNS, WEIGHTS = 32, 64, 8192  # of a piece, the most; ROWS * WEIGHTS = 2**18


def conv(r: Any, sram: Any, acc: Any, k: int, lanes: int) -> None:
    """Execute a ``conv`` record; ``k`` and ``lanes`` are the array's; ``acc`` is int32."""
    image = padded_image(r, sram)
    one_tap = r["kh"][0] == r["kw"][0] == r["stride_h"][0] == r["stride_w"][0] == 1
    inputs = image.reshape(-1, image.shape[2]) if one_tap else gather(r, image)
    weights = unpack(r, sram, k, lanes)
    accumulate = bool(r["accumulate"][0])
    for column in range(0, weights.shape[1], COLUMNS):
        part = weights[:, column : column + COLUMNS]
        depth = min(EXACT_DEPTH, WEIGHTS // part.shape[1])
        for begin in range(0, len(part), depth):
            sums = multiply(inputs[:, begin : begin + depth], part[begin : begin + depth])
            deposit(r, sums, acc, column, accumulate or begin > 0)


def multiply(a: Array, b: Array) -> Array:
    """The matrix product of float32 a [m, k] and b [k, n], ROWS rows at a time."""
    (m, k), n = a.shape, b.shape[1]
    out, whole = np.empty((m, n), np.float32), m - m % ROWS
    np.matmul(a[:whole].reshape(-1, ROWS, k), b, out=out[:whole].reshape(-1, ROWS, n))
    np.matmul(a[whole:], b, out=out[whole:])
    return out


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def padded_image(r: Any, sram: Any) -> Any:
    """The input that all output pixels see, less the zero point: float32 [rows, columns, cin], padding 0."""
    f = r[0]
    cin, top, left = np.int64(f.cin), np.int64(f.pad_top), np.int64(f.pad_left)
    rows = (np.int64(f.out_h) - 1) * np.int64(f.stride_h) + (np.int64(f.kh) - 1) * np.int64(f.dilation_h) + 1
    columns = (
        (np.int64(f.out_w) - 1) * np.int64(f.stride_w) + (np.int64(f.kw) - 1) * np.int64(f.dilation_w) + 1
    )
    image = np.zeros((rows, columns, cin), np.float32)
    first, last = max(left, 0), min(columns, np.int64(f.in_w) + left)
    zero, signed, pixel = np.int64(f.src_zero), np.int64(f.src_type), np.int64(f.src_pixel)
    for y in range(max(top, 0), min(rows, np.int64(f.in_h) + top)):
        line = np.int64(f.src) + (y - top) * np.int64(f.src_row)
        if pixel == cin and last > first:
            start = line + (first - left) * pixel
            flat = image[y].ravel()
            centre(sram[start : start + (last - first) * cin], zero, signed, flat[first * cin : last * cin])
        else:
            for x in range(first, last):
                start = line + (x - left) * pixel
                centre(sram[start : start + cin], zero, signed, image[y, x])
    return image


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def centre(source: Any, zero: int, signed: int, out: Any) -> None:
    """out = source - zero point, as float32."""
    flip = np.int32(128 * signed)
    shift = np.int32(flip + zero)
    for i in range(len(out)):
        out[i] = np.float32(np.int32((np.int32(source[i]) ^ flip) - shift))


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def gather(r: Any, image: Any) -> Any:
    """The inputs of every output pixel in the order of the weights: float32 [pixels, kh * kw * cin]."""
    f = r[0]
    cin, kh, kw, out_w = np.int64(f.cin), np.int64(f.kh), np.int64(f.kw), np.int64(f.out_w)
    taps, run = (1, kw * cin) if f.dilation_w == 1 else (kw, cin)
    pixels = np.int64(f.out_h) * out_w
    inputs = np.empty((pixels, kh * kw * cin), np.float32)
    for p in range(pixels):
        y, x = (p // out_w) * np.int64(f.stride_h), (p % out_w) * np.int64(f.stride_w)
        at = 0
        for i in range(kh):
            line = image[y + i * np.int64(f.dilation_h)].ravel()
            for j in range(taps):
                start = (x + j * np.int64(f.dilation_w)) * cin
                source, to = line[start : start + run], inputs[p, at : at + run]
                for k in range(run):
                    to[k] = source[k]
                at += run
    return inputs


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def unpack(r: Any, sram: Any, k: int, lanes: int) -> Any:
    """The weight tiles as float32 [kh * kw * cin, cout rounded up to whole groups]."""
    f = r[0]
    rows, length = np.int64(f.kh), np.int64(f.kw) * np.int64(f.cin)
    if not f.row_mode:
        rows, length = rows * np.int64(f.kw), np.int64(f.cin)
    groups = (np.int64(f.cout) + lanes - 1) // lanes
    row_bytes = (length + k - 1) // k * k * lanes
    weights = np.empty((rows * length, groups * lanes), np.float32)
    for group in range(groups):
        for row in range(rows):
            start = np.int64(f.weights) + (group * rows + row) * row_bytes
            for j in range(length):
                at = start + j // 4 * 4 * lanes
                quad = sram[at : at + 4 * lanes]
                to = weights[row * length + j, group * lanes : (group + 1) * lanes]
                for lane in range(lanes):
                    to[lane] = np.float32(np.int8(quad[4 * lane + j % 4]))
    return weights


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def deposit(r: Any, sums: Any, acc: Any, column: int, accumulate: bool) -> None:
    """Put (or add) the sums [pixel, channel] into the accumulators from channel ``column`` on."""
    f = r[0]
    channels = min(sums.shape[1], np.int64(f.cout) - column)
    first, step = np.int64(f.acc) // 4 + column, np.int64(f.acc_pixel) // 4
    for p in range(len(sums)):
        to, source = acc[first + p * step : first + p * step + channels], sums[p]
        if accumulate:
            for c in range(channels):
                to[c] += np.int32(source[c])
        else:
            for c in range(channels):
                to[c] = np.int32(source[c])
