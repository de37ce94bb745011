"""What each instruction computes, plainly: gathered by addresses, computed, scattered by addresses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ommatid.isa.target import Target
from ommatid.simulator.reference.decode import Decoded
from ommatid.simulator.reference.memories import Memories
from ommatid.simulator.reference.rounding import Array, fl, fma, number, quantise


def execute(i: Decoded, target: Target, memories: Memories) -> None:
    """Apply an instruction to the memories."""
    with np.errstate(over="ignore"):  # beyond float32 is infinity, which Q clamps
        if i.mnemonic == "load":
            _load(i, memories)
        elif i.mnemonic == "store":
            _transfer(i.fields, memories.sram[i.core], memories.dram)
        elif i.mnemonic == "send":
            _transfer(i.fields, memories.sram[i.core], memories.sram[i.fields.peer])
        elif i.mnemonic != "end":
            KERNELS[i.mnemonic](i.fields, memories.sram[i.core], memories.acc[i.core], target)


# --- addresses ----------------------------------------------------------------------------------------------


def _checked(at: Array, memory: Array) -> Array:
    """Addresses that must lie in a memory: NumPy would count negative ones from its end."""
    assert at.size == 0 or (at.min() >= 0 and at.max() < len(memory)), "an address outside the memory"
    return at


def _read(memory: Array, at: Array) -> Array:
    return memory[_checked(at, memory)]


def _write(memory: Array, at: Array, values: Array) -> None:
    memory[_checked(at, memory)] = np.broadcast_to(values, at.shape)


def _grid(address: int, *loops: tuple[int, int]) -> Array:
    """Addresses of nested loops of (count, step), outermost first: one dimension a loop."""
    at = np.array(address, np.int64)
    for count, step in loops:
        at = at[..., None] + np.arange(count, dtype=np.int64) * step
    return at


def _image(f: Any, name: str, h: int, w: int, c: int, unit: int = 1) -> Array:
    row, pixel = getattr(f, f"{name}_row"), getattr(f, f"{name}_pixel")
    return _grid(getattr(f, name), (h, row), (w, pixel), (c, unit))


def _words32(sram: Array, address: int, count: int, kind: str) -> Array:
    """``count`` little-endian numbers of 4 bytes."""
    return _read(sram, _grid(address, (4 * count, 1))).view(kind)


# --- data movement ------------------------------------------------------------------------------------------


def _runs(f: Any, name: str) -> Array:
    steps = [(getattr(f, f"n{n}"), getattr(f, f"{name}_s{n}")) for n in (1, 2, 3)]
    return _grid(getattr(f, name), *steps, (f.run, 1))


def _transfer(f: Any, source: Array, destination: Array) -> None:
    _write(destination, _runs(f, "dst"), _read(source, _runs(f, "src")))


def _load(i: Decoded, memories: Memories) -> None:
    for core, sram in enumerate(memories.sram):
        if core == i.core or i.fields.multicast >> core & 1:
            _transfer(i.fields, memories.dram, sram)


def _fill(f: Any, sram: Array, acc: Array, target: Target) -> None:
    _write(sram, _runs(f, "dst"), np.array(f.value, np.uint8))


def _copy(f: Any, sram: Array, acc: Array, target: Target) -> None:
    src, dst = (
        _grid(getattr(f, side), *((getattr(f, f"n{n}"), getattr(f, f"{side}_s{n}")) for n in range(4)))
        for side in ("src", "dst")
    )
    _write(sram, dst, _read(sram, src))


# --- the MAC array ------------------------------------------------------------------------------------------


def _tap(f: Any, sram: Array, i: int, j: int, c: int) -> tuple[Array, Array]:
    """Of tap [i, j] each output pixel's input (number - zero point) [out_h, out_w, c], and which are inside."""
    y = np.arange(f.out_h, dtype=np.int64)[:, None] * f.stride_h - f.pad_top + i * f.dilation_h
    x = np.arange(f.out_w, dtype=np.int64)[None, :] * f.stride_w - f.pad_left + j * f.dilation_w
    inside = (y >= 0) & (y < f.in_h) & (x >= 0) & (x < f.in_w)
    values = np.zeros((f.out_h, f.out_w, c), np.int64)
    at = (f.src + y * f.src_row + x * f.src_pixel)[inside]
    values[inside] = number(_read(sram, at[:, None] + np.arange(c)), f.src_type) - f.src_zero
    return values, inside


def _accumulate(acc: Array, at: Array, sums: Array, accumulate: int) -> None:
    """Sums into accumulators at byte addresses; int32 wraps."""
    at = at >> 2
    old = _read(acc, at).astype(np.int64) if accumulate else 0
    _write(acc, at, (old + sums).astype(np.int32))


def _conv_weights(f: Any, sram: Array, target: Target) -> Array:
    """Weights (number - zero point) [cout, kh, kw, cin] out of their tiles."""
    k, channels = target.mx_k_bytes, target.mx_channels
    groups = -(-f.cout // channels)
    positions = f.kw * f.cin if f.row_mode else f.cin  # of one row, or of one tap
    rows = f.kh if f.row_mode else f.kh * f.kw
    steps = -(-positions // k)
    raw = _read(sram, _grid(f.weights, (groups * rows * steps * k * channels, 1)))
    values = number(raw, f.weights_type) - f.weights_zero
    tiles = values.reshape(groups, rows, steps, k // 4, channels, 4).transpose(0, 4, 1, 2, 3, 5)
    by_row = tiles.reshape(groups * channels, rows, steps * k)[: f.cout, :, :positions]
    return by_row.reshape(f.cout, f.kh, f.kw, f.cin)


def _conv(f: Any, sram: Array, acc: Array, target: Target) -> None:
    weights = _conv_weights(f, sram, target)
    sums = np.zeros((f.out_h, f.out_w, f.cout), np.int64)
    for i in range(f.kh):
        for j in range(f.kw):
            sums += _tap(f, sram, i, j, f.cin)[0] @ weights[:, i, j].T
    at = _grid(f.acc, (f.out_h * f.out_w, f.acc_pixel), (f.cout, 4))
    _accumulate(acc, at, sums.reshape(at.shape), f.accumulate)


def _dwconv(f: Any, sram: Array, acc: Array, target: Target) -> None:
    sums = np.zeros((f.out_h, f.out_w, f.c), np.int64)
    for i in range(f.kh):
        for j in range(f.kw):
            weights = _read(sram, _grid(f.weights + (i * f.kw + j) * f.weights_tap, (f.c, 1)))
            sums += _tap(f, sram, i, j, f.c)[0] * number(weights, 1)
    at = _grid(f.acc, (f.out_h * f.out_w, f.acc_pixel), (f.c, 4))
    _accumulate(acc, at, sums.reshape(at.shape), f.accumulate)


# --- the vector engine --------------------------------------------------------------------------------------


def _map(f: Any, sram: Array, acc: Array, target: Target) -> None:
    b = _map_source(f, sram, acc)
    if f.table1_on:
        b = _read(sram, _grid(f.table1, (256, 1)))[b]
    if f.binary:
        b = _map_binary(f, sram, b)
    if f.table2_on:
        b = _read(sram, _grid(f.table2, (256, 1)))[b]
    _write(sram, _image(f, "dst", f.h, f.w, f.c), b)


def _map_source(f: Any, sram: Array, acc: Array) -> Array:
    if f.source == 0:
        return _read(sram, _image(f, "src", f.h, f.w, f.c))
    if f.source == 1:
        bias = _words32(sram, f.parameters, f.c, "<i4").astype(np.int64)
        multiplier = _words32(sram, f.parameters + 4 * f.c, f.c, "<f4")
        a = _read(acc, _image(f, "src", f.h, f.w, f.c, unit=4) >> 2)
        return quantise(fl(fl((a + bias).astype(np.int32)) * multiplier), f.mid_zero, f.mid_type)
    shift, positive, negative = _words32(sram, f.parameters, 3 * f.c, "<f4").reshape(3, f.c)
    v = number(_read(sram, _image(f, "src", f.h, f.w, f.c)), f.src_type) - f.src_zero
    return quantise(fma(fl(v), np.where(v >= 0, positive, negative), shift), f.mid_zero, f.mid_type)


def _map_binary(f: Any, sram: Array, b: Array) -> Array:
    second = _read(sram, _image(f, "operand", f.h, f.w, f.c if f.operand_c else 1))
    a = number(b, f.a_type)
    o = np.broadcast_to(number(second, f.b_type), a.shape)
    if f.binary == 1:
        a_factor, b_factor, addend = (np.float32(x) for x in (f.a_factor, f.b_factor, f.addend))
        inner = fma(fl(o), np.asarray(b_factor), np.asarray(addend))
        return quantise(fma(fl(a), np.asarray(a_factor), inner), 0, f.r_type)
    product = (a - f.a_zero) * (o - f.b_zero)
    return quantise(fl(fl(product) * np.float32(f.a_factor)), f.r_zero, f.r_type)


def _pool(f: Any, sram: Array, acc: Array, target: Target) -> None:
    taps = [_tap(f, sram, i, j, f.c) for i in range(f.kh) for j in range(f.kw)]
    if f.kind == 0:
        result = np.full((f.out_h, f.out_w, f.c), -128 if f.src_type else 0, np.int64)
        for values, inside in taps:
            result = np.where(inside[..., None], np.maximum(result, values + f.src_zero), result)
        written = result.astype(np.uint8)
    else:
        total = sum((values for values, _ in taps), np.zeros((f.out_h, f.out_w, f.c), np.int64))
        count = sum((inside.astype(np.int64) for _, inside in taps), np.zeros((f.out_h, f.out_w), np.int64))
        n = np.full_like(count, f.kh * f.kw) if f.count_pad else np.maximum(count, 1)
        mean = fl(fl(fl(total) * np.float32(f.factor)) / fl(n)[..., None])
        written = quantise(mean, f.dst_zero, f.dst_type)
    _write(sram, _image(f, "dst", f.out_h, f.out_w, f.c), written)


def _reduce(f: Any, sram: Array, acc: Array, target: Target) -> None:
    values = number(_read(sram, _image(f, "src", f.h, f.w, f.c)), f.src_type) - f.src_zero
    _accumulate(acc, _grid(f.acc, (f.c, 4)), values.sum(axis=(0, 1)), f.accumulate)


def _resize(f: Any, sram: Array, acc: Array, target: Target) -> None:
    rows, columns = (
        _read(sram, _grid(at, (8 * n, 1))).view("<u2").reshape(n, 4).astype(np.int64)
        for at, n in ((f.rows, f.out_h), (f.columns, f.out_w))
    )
    total = np.zeros((f.out_h, f.out_w, f.c), np.int64)
    for i in range(2):
        for j in range(2):
            weight = rows[:, 2 + i, None] * columns[None, :, 2 + j]
            at = f.src + rows[:, i, None] * f.src_row + columns[None, :, j] * f.src_pixel
            read = weight > 0  # others are not read
            values = number(_read(sram, at[read][:, None] + np.arange(f.c)), f.src_type) - f.src_zero
            total[read] += values * weight[read][:, None]
    written = quantise(fl(fl(total) * np.float32(f.factor)), f.dst_zero, f.dst_type)
    _write(sram, _image(f, "dst", f.out_h, f.out_w, f.c), written)


def _softmax(f: Any, sram: Array, acc: Array, target: Target) -> None:
    values = number(_read(sram, _image(f, "src", f.h, f.w, f.c)), f.src_type)
    e = _words32(sram, f.table, 256, "<u4").astype(np.int64)[values.max(axis=2, keepdims=True) - values]
    share = fl(fl(e) / fl(e.sum(axis=2, keepdims=True)))
    written = quantise(fl(share * np.float32(f.factor)), f.dst_zero, f.dst_type)
    _write(sram, _image(f, "dst", f.h, f.w, f.c), written)


def _lrn(f: Any, sram: Array, acc: Array, target: Target) -> None:
    v = number(_read(sram, _image(f, "src", f.h, f.w, f.c)), f.src_type) - f.src_zero
    total = np.zeros_like(v)
    for ch in range(f.c):
        low, high = max(0, ch - (f.size - 1) // 2), min(f.c - 1, ch + f.size // 2)
        total[..., ch] = (v[..., low : high + 1] ** 2).sum(axis=2)
    u = fl(fl(np.float32(f.alpha) * fl(total)) + np.float32(f.bias))
    assert u.min() > 0, "lrn: u must be greater than 0"
    g = np.sqrt(u)
    divisor = fl(g * np.sqrt(g))
    written = quantise(fl(fl(fl(v) * np.float32(f.factor)) / divisor), f.dst_zero, f.dst_type)
    _write(sram, _image(f, "dst", f.h, f.w, f.c), written)


def _norm(f: Any, sram: Array, acc: Array, target: Target) -> None:
    assert f.epsilon > 0, "norm: epsilon must be greater than 0"
    v = number(_read(sram, _image(f, "src", f.h, f.w, f.c)), f.src_type) - f.src_zero
    s1 = v.sum(axis=2, keepdims=True) * f.centre
    s2 = (v**2).sum(axis=2, keepdims=True)
    g = np.sqrt(fl(fl(f.c * s2 - s1**2) + np.float32(f.epsilon)))
    multiplier, shift = _words32(sram, f.parameters, 2 * f.c, "<f4").reshape(2, f.c)
    scaled = fma(fl(fl(f.c * v - s1) / g), multiplier, shift)
    _write(sram, _image(f, "dst", f.h, f.w, f.c), quantise(scaled, f.dst_zero, f.dst_type))


def _topk(f: Any, sram: Array, acc: Array, target: Target) -> None:
    assert f.k <= f.c, "topk: k is at most c"
    assert f.values_on or f.indices_on, "topk: one of the two must be set"
    data = _read(sram, _image(f, "src", f.h, f.w, f.c))
    key = number(data, f.src_type) * (1 if f.order else -1)
    if f.last:
        found = f.c - 1 - np.argsort(key[..., ::-1], axis=2, kind="stable")[..., : f.k]
    else:
        found = np.argsort(key, axis=2, kind="stable")[..., : f.k]
    if f.values_on:
        _write(sram, _image(f, "dst", f.h, f.w, f.k), np.take_along_axis(data, found, axis=2))
    if f.indices_on:
        indices = np.ascontiguousarray(found, "<i4").view(np.uint8)
        _write(sram, _image(f, "index", f.h, f.w, 4 * f.k), indices)


KERNELS: dict[str, Callable[[Any, Array, Array, Target], None]] = {
    "fill": _fill, "copy": _copy, "conv": _conv, "dwconv": _dwconv, "map": _map, "pool": _pool,
    "reduce": _reduce, "resize": _resize, "softmax": _softmax, "lrn": _lrn, "norm": _norm, "topk": _topk,
}  # fmt: skip
