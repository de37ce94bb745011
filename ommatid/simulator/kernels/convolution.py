"""``conv`` and ``dwconv``: int8 weights by 8-bit activations into int32 accumulators, exactly."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from ommatid.simulator.kernels.arithmetic import number

PIXELS = 4  # pixels multiplied together: enough to keep the weights in registers


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def gather_row(
    sram: Any, base: int, row: int, pixel: int, in_h: int, in_w: int, y: int, x: int,
    kh: int, kw: int, dil_h: int, dil_w: int, cin: int, zero: int, signed: int, length: int, row_mode: int, out: Any,
) -> None:  # fmt: skip
    """The inputs of one output pixel less the zero point, in the order of the weights' K; padding is 0.

    ``y`` and ``x`` are the input coordinates of kernel tap (0, 0); ``length`` is the padded K of a kernel row
    (``row_mode``) or of a tap.
    """
    at = 0
    out[:] = 0
    flip = 128 * signed  # int8 as its bits xor 128, less 128
    for i in range(kh):
        line = y + i * dil_h
        inside = 0 <= line < in_h
        for j in range(kw):
            column = x + j * dil_w
            start = at + (j * cin if row_mode else j * length)
            if inside and 0 <= column < in_w:
                source = base + line * row + column * pixel
                for k in range(cin):
                    out[start + k] = np.int16((sram[source + k] ^ flip) - np.int32(flip) - np.int32(zero))
        at += length if row_mode else length * kw


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def unpack_group(sram: Any, address: int, steps: int, k: int, lanes: int, out: Any) -> None:
    """The weight tiles of one group of output channels as int16 [step * k, lanes]."""
    at = address
    for step in range(steps):
        for quad in range(k // 4):
            for lane in range(lanes):
                for q in range(4):
                    byte = np.int16(sram[at])
                    out[step * k + quad * 4 + q, lane] = byte - ((byte & 128) << 1)
                    at += 1


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def multiply_pixels(inputs: Any, weights: Any, depth: int, sums: Any) -> None:
    """sums[p, lane] = inputs[p] . weights[:, lane] for PIXELS pixels (int32)."""
    lanes = weights.shape[1]
    sums[:, :] = 0
    for k in range(depth):
        a, b, c, d = np.int32(inputs[0, k]), np.int32(inputs[1, k]), np.int32(inputs[2, k]), np.int32(inputs[3, k])
        for lane in range(lanes):
            w = np.int32(weights[k, lane])
            sums[0, lane] += a * w
            sums[1, lane] += b * w
            sums[2, lane] += c * w
            sums[3, lane] += d * w


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def conv(r: Any, sram: Any, acc: Any, k: int, lanes: int) -> None:
    """Execute a ``conv`` record; ``k`` and ``lanes`` are the array's; ``acc`` is int32."""
    f = r[0]
    kh, kw, cin, cout = np.int64(f.kh), np.int64(f.kw), np.int64(f.cin), np.int64(f.cout)
    out_w, pixels = np.int64(f.out_w), np.int64(f.out_h) * np.int64(f.out_w)
    row_mode = np.int64(f.row_mode)
    length = (kw * cin if row_mode else cin) + k - 1
    length -= length % k
    depth = kh * length * (1 if row_mode else kw)
    inputs = np.empty((pixels + PIXELS, depth), np.int16)
    for p in range(pixels):
        y = (p // out_w) * np.int64(f.stride_h) - np.int64(f.pad_top)
        x = (p % out_w) * np.int64(f.stride_w) - np.int64(f.pad_left)
        gather_row(
            sram, np.int64(f.src), np.int64(f.src_row), np.int64(f.src_pixel), np.int64(f.in_h), np.int64(f.in_w),
            y, x, kh, kw, np.int64(f.dilation_h), np.int64(f.dilation_w), cin, np.int64(f.src_zero),
            np.int64(f.src_type), length, row_mode, inputs[p],
        )  # fmt: skip
    inputs[pixels:] = 0
    weights = np.empty((depth, lanes), np.int16)
    sums = np.empty((PIXELS, lanes), np.int32)
    groups = (cout + lanes - 1) // lanes
    first = np.int64(f.acc) // 4
    step = np.int64(f.acc_pixel) // 4
    for group in range(groups):
        unpack_group(sram, np.int64(f.weights) + group * depth * lanes, depth // k, k, lanes, weights)
        channels = min(lanes, cout - group * lanes)
        for p in range(0, pixels, PIXELS):
            multiply_pixels(inputs[p : p + PIXELS], weights, depth, sums)
            for q in range(min(PIXELS, pixels - p)):
                at = first + (p + q) * step + group * lanes
                for lane in range(channels):
                    acc[at + lane] = sums[q, lane] + (acc[at + lane] if f.accumulate else 0)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def dwconv(r: Any, sram: Any, acc: Any) -> None:
    """Execute a ``dwconv`` record; ``acc`` is int32."""
    f = r[0]
    channels = np.int64(f.c)
    zero, signed = np.int32(f.src_zero), np.int32(f.src_type)
    kh, kw, tap_bytes = np.int64(f.kh), np.int64(f.kw), np.int64(f.weights_tap)
    weights = np.empty((kh * kw, channels), np.int32)
    for tap in range(kh * kw):
        for c in range(channels):
            weights[tap, c] = number(sram[np.int64(f.weights) + tap * tap_bytes + c], 1)
    sums = np.empty(channels, np.int32)
    for p in range(np.int64(f.out_h) * np.int64(f.out_w)):
        y = (p // np.int64(f.out_w)) * np.int64(f.stride_h) - np.int64(f.pad_top)
        x = (p % np.int64(f.out_w)) * np.int64(f.stride_w) - np.int64(f.pad_left)
        sums[:] = 0
        for i in range(kh):
            line = y + i * np.int64(f.dilation_h)
            for j in range(kw):
                column = x + j * np.int64(f.dilation_w)
                if 0 <= line < np.int64(f.in_h) and 0 <= column < np.int64(f.in_w):
                    at = np.int64(f.src) + line * np.int64(f.src_row) + column * np.int64(f.src_pixel)
                    for c in range(channels):
                        sums[c] += (number(sram[at + c], signed) - zero) * weights[i * kw + j, c]
        at = (np.int64(f.acc) + p * np.int64(f.acc_pixel)) // 4
        for c in range(channels):
            acc[at + c] = sums[c] + (acc[at + c] if f.accumulate else 0)
