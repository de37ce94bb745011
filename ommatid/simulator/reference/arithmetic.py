"""What each instruction computes, plainly: gathered by addresses, computed, scattered by addresses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ommatid.isa.target import Target
from ommatid.simulator.reference.decode import Decoded
from ommatid.simulator.reference.memories import Memories
from ommatid.simulator.reference.rounding import TYPES, Array, fl, fma, number, quantise, wrapped


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

U8, U16, I32, U32, F32 = (np.dtype(name) for name in ("u1", "<u2", "<i4", "<u4", "<f4"))
ACCUMULATORS = {4: I32, 8: np.dtype("<i8")}  # by acc_bytes


def _places(memory: Array, at: Array, kind: np.dtype[Any]) -> tuple[Array, Array]:
    """A memory as elements of a kind, and the indices there of byte addresses."""
    elements, size = memory.view(kind), kind.itemsize
    assert not np.any(at % size), "an address that is no multiple of its element's size"
    index = at // size  # in the memory: NumPy would count negative ones from its end
    assert at.size == 0 or (index.min() >= 0 and index.max() < len(elements)), "an address outside the memory"
    return elements, index


def _read(memory: Array, at: Array, kind: np.dtype[Any] = U8) -> Array:
    """The elements at byte addresses."""
    elements, index = _places(memory, at, kind)
    return elements[index]


def _write(memory: Array, at: Array, values: Array) -> None:
    """Elements, of their kind, to byte addresses."""
    elements, index = _places(memory, at, values.dtype)
    elements[index] = np.broadcast_to(values, at.shape)


def _grid(address: int, *loops: tuple[int, int]) -> Array:
    """Addresses of nested loops of (count, step), outermost first: one dimension a loop."""
    at = np.array(address, np.int64)
    for count, step in loops:
        at = at[..., None] + np.arange(count, dtype=np.int64) * step
    return at


def _image(f: Any, name: str, h: int, w: int, c: int, size: int) -> Array:
    """Addresses [h, w, c] of elements of ``size`` bytes."""
    row, pixel = getattr(f, f"{name}_row"), getattr(f, f"{name}_pixel")
    return _grid(getattr(f, name), (h, row), (w, pixel), (c, size))


def _vector(sram: Array, address: int, count: int, kind: np.dtype[Any]) -> Array:
    """``count`` elements, one after the other."""
    return _read(sram, _grid(address, (count, kind.itemsize)), kind)


def _source(f: Any, sram: Array) -> Array:
    """The elements [h, w, c] of the input."""
    kind = TYPES[f.src_type]
    return _read(sram, _image(f, "src", f.h, f.w, f.c, kind.itemsize), kind)


def _result(f: Any, sram: Array, h: int, w: int, c: int, elements: Array) -> None:
    """Write the output."""
    _write(sram, _image(f, "dst", h, w, c, elements.itemsize), elements)


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
    _write(sram, dst, _read(sram, src, {1: U8, 2: U16}[f.element_bytes]))


# --- the MAC array ------------------------------------------------------------------------------------------


def _tap(f: Any, sram: Array, i: int, j: int, c: int) -> tuple[Array, Array]:
    """Of tap [i, j] each output pixel's input (number - zero point) [out_h, out_w, c], and which are inside."""
    y = np.arange(f.out_h, dtype=np.int64)[:, None] * f.stride_h - f.pad_top + i * f.dilation_h
    x = np.arange(f.out_w, dtype=np.int64)[None, :] * f.stride_w - f.pad_left + j * f.dilation_w
    inside = (y >= 0) & (y < f.in_h) & (x >= 0) & (x < f.in_w)
    values = np.zeros((f.out_h, f.out_w, c), np.int64)
    at = (f.src + y * f.src_row + x * f.src_pixel)[inside]
    kind = TYPES[f.src_type]
    values[inside] = (
        number(_read(sram, at[:, None] + np.arange(c) * kind.itemsize, kind), f.src_type) - f.src_zero
    )
    return values, inside


def _accumulate(acc: Array, at: Array, sums: Array, accumulate: int, acc_bytes: int) -> None:
    """Sums into accumulators at byte addresses."""
    old = _accumulated(acc, at, acc_bytes) if accumulate else 0
    _write(acc, at, wrapped(old + sums, acc_bytes).astype(ACCUMULATORS[acc_bytes]))


def _accumulated(acc: Array, at: Array, acc_bytes: int) -> Array:
    """What accumulators hold, int64."""
    return wrapped(_read(acc, at, ACCUMULATORS[acc_bytes]).astype(np.int64), acc_bytes)


def _conv_weights(f: Any, sram: Array, target: Target) -> Array:
    """Weights (number - zero point) [cout, kh, kw, cin] out of their tiles."""
    k, channels = target.mx_k_bytes, target.mx_channels
    groups = -(-f.cout // channels)
    positions = f.kw * f.cin if f.row_mode else f.cin  # of one row, or of one tap
    rows = f.kh if f.row_mode else f.kh * f.kw
    steps = -(-positions // k)
    raw = _vector(sram, f.weights, groups * rows * steps * k * channels, TYPES[f.weights_type])
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
    at = _grid(f.acc, (f.out_h * f.out_w, f.acc_pixel), (f.cout, f.acc_bytes))
    _accumulate(acc, at, sums.reshape(at.shape), f.accumulate, f.acc_bytes)


def _dwconv(f: Any, sram: Array, acc: Array, target: Target) -> None:
    sums = np.zeros((f.out_h, f.out_w, f.c), np.int64)
    for i in range(f.kh):
        for j in range(f.kw):
            weights = _vector(sram, f.weights + (i * f.kw + j) * f.weights_tap, f.c, TYPES[1])
            sums += _tap(f, sram, i, j, f.c)[0] * number(weights, 1)
    at = _grid(f.acc, (f.out_h * f.out_w, f.acc_pixel), (f.c, f.acc_bytes))
    _accumulate(acc, at, sums.reshape(at.shape), f.accumulate, f.acc_bytes)


# --- the vector engine --------------------------------------------------------------------------------------


def _map(f: Any, sram: Array, acc: Array, target: Target) -> None:
    b = _map_source(f, sram, acc)
    b = TABLES[f.table1_on](sram, f.table1, b)
    if f.binary:
        b = _map_binary(f, sram, b)
    b = TABLES[f.table2_on](sram, f.table2, b)
    _result(f, sram, f.h, f.w, f.c, b)


def _map_source(f: Any, sram: Array, acc: Array) -> Array:
    if f.source == 0:
        return _source(f, sram)
    if f.source == 1:
        bias = _vector(sram, f.parameters, f.c, I32).astype(np.int64)
        multiplier = _vector(sram, f.parameters + 4 * f.c, f.c, F32)
        a = _accumulated(acc, _image(f, "src", f.h, f.w, f.c, f.acc_bytes), f.acc_bytes)
        return quantise(fl(fl(wrapped(a + bias, f.acc_bytes)) * multiplier), f.mid_zero, f.mid_type)
    shift, positive, negative = _vector(sram, f.parameters, 3 * f.c, F32).reshape(3, f.c)
    v = number(_source(f, sram), f.src_type) - f.src_zero
    return quantise(fma(fl(v), np.where(v >= 0, positive, negative), shift), f.mid_zero, f.mid_type)


def _bytes_table(sram: Array, at: int, b: Array) -> Array:
    return _vector(sram, at, 256, U8)[number(b, 0)]


def _wide_table(sram: Array, at: int, b: Array) -> Array:
    return _vector(sram, at, 256, TYPES[2])[number(b, 0)]


def _i16_table(sram: Array, at: int, b: Array) -> Array:
    u = number(b, 2) + 32768
    i, f = u >> 7, u & 127
    t = _vector(sram, at, 513, TYPES[2]).astype(np.int64)
    return (t[i] + ((t[i + 1] - t[i]) * f + 64 >> 7)).astype(TYPES[2])


#: Steps 2 and 4, by ``table1_on`` and ``table2_on``.
TABLES = (lambda sram, at, b: b, _bytes_table, _wide_table, _i16_table)


def _map_binary(f: Any, sram: Array, b: Array) -> Array:
    kind = TYPES[f.b_type]
    at = _image(f, "operand", f.h, f.w, f.c if f.operand_c else 1, kind.itemsize)
    a = number(b, f.a_type)
    o = np.broadcast_to(number(_read(sram, at, kind), f.b_type), a.shape)
    if f.binary == 1:
        a_factor, b_factor, addend = (np.float32(x) for x in (f.a_factor, f.b_factor, f.addend))
        inner = fma(fl(o), np.asarray(b_factor), np.asarray(addend))
        return quantise(fma(fl(a), np.asarray(a_factor), inner), 0, f.r_type)
    product = (a - f.a_zero) * (o - f.b_zero)
    return quantise(fl(fl(product) * np.float32(f.a_factor)), f.r_zero, f.r_type)


def _pool(f: Any, sram: Array, acc: Array, target: Target) -> None:
    taps = [_tap(f, sram, i, j, f.c) for i in range(f.kh) for j in range(f.kw)]
    if f.kind == 0:
        result = np.full((f.out_h, f.out_w, f.c), np.iinfo(TYPES[f.src_type]).min, np.int64)
        for values, inside in taps:
            result = np.where(inside[..., None], np.maximum(result, values + f.src_zero), result)
        written = result.astype(TYPES[f.src_type])
    else:
        total = sum((values for values, _ in taps), np.zeros((f.out_h, f.out_w, f.c), np.int64))
        count = sum((inside.astype(np.int64) for _, inside in taps), np.zeros((f.out_h, f.out_w), np.int64))
        n = np.full_like(count, f.kh * f.kw) if f.count_pad else np.maximum(count, 1)
        mean = fl(fl(fl(total) * np.float32(f.factor)) / fl(n)[..., None])
        written = quantise(mean, f.dst_zero, f.dst_type)
    _result(f, sram, f.out_h, f.out_w, f.c, written)


def _reduce(f: Any, sram: Array, acc: Array, target: Target) -> None:
    values = number(_source(f, sram), f.src_type) - f.src_zero
    _accumulate(acc, _grid(f.acc, (f.c, 4)), values.sum(axis=(0, 1)), f.accumulate, 4)


def _resize(f: Any, sram: Array, acc: Array, target: Target) -> None:
    rows, columns = (
        _vector(sram, at, 4 * n, U16).reshape(n, 4).astype(np.int64)
        for at, n in ((f.rows, f.out_h), (f.columns, f.out_w))
    )
    kind = TYPES[f.src_type]
    total = np.zeros((f.out_h, f.out_w, f.c), np.int64)
    for i in range(2):
        for j in range(2):
            weight = rows[:, 2 + i, None] * columns[None, :, 2 + j]
            at = f.src + rows[:, i, None] * f.src_row + columns[None, :, j] * f.src_pixel
            read = weight > 0  # others are not read
            elements = _read(sram, at[read][:, None] + np.arange(f.c) * kind.itemsize, kind)
            values = number(elements, f.src_type) - f.src_zero
            total[read] += values * weight[read][:, None]
    written = quantise(fl(fl(total) * np.float32(f.factor)), f.dst_zero, f.dst_type)
    _result(f, sram, f.out_h, f.out_w, f.c, written)


def _softmax(f: Any, sram: Array, acc: Array, target: Target) -> None:
    values = number(_source(f, sram), f.src_type)
    e = _exponentials(f, sram, values.max(axis=2, keepdims=True) - values)
    share = fl(fl(e) / fl(e.sum(axis=2, keepdims=True)))
    written = quantise(fl(share * np.float32(f.factor)), f.dst_zero, f.dst_type)
    _result(f, sram, f.h, f.w, f.c, written)


def _exponentials(f: Any, sram: Array, d: Array) -> Array:
    """Those of -d steps, int64."""
    if TYPES[f.src_type].itemsize == 1:
        return _vector(sram, f.table, 256, U32)[d].astype(np.int64)
    coarse, fine = _vector(sram, f.table, 512, U32).astype(np.uint64).reshape(2, 256)
    return (coarse[d >> 8] * fine[d & 255] >> np.uint64(32)).astype(np.int64)


def _lrn(f: Any, sram: Array, acc: Array, target: Target) -> None:
    v = number(_source(f, sram), f.src_type) - f.src_zero
    total = np.zeros_like(v)
    for ch in range(f.c):
        low, high = max(0, ch - (f.size - 1) // 2), min(f.c - 1, ch + f.size // 2)
        total[..., ch] = (v[..., low : high + 1] ** 2).sum(axis=2)
    u = fl(fl(np.float32(f.alpha) * fl(total)) + np.float32(f.bias))
    assert u.min() > 0, "lrn: u must be greater than 0"
    g = np.sqrt(u)
    divisor = fl(g * np.sqrt(g))
    written = quantise(fl(fl(fl(v) * np.float32(f.factor)) / divisor), f.dst_zero, f.dst_type)
    _result(f, sram, f.h, f.w, f.c, written)


def _norm(f: Any, sram: Array, acc: Array, target: Target) -> None:
    assert f.epsilon > 0, "norm: epsilon must be greater than 0"
    v = number(_source(f, sram), f.src_type) - f.src_zero
    s1 = v.sum(axis=2, keepdims=True) * f.centre
    s2 = (v**2).sum(axis=2, keepdims=True)
    g = np.sqrt(fl(fl(f.c * s2 - s1**2) + np.float32(f.epsilon)))
    multiplier, shift = _vector(sram, f.parameters, 2 * f.c, F32).reshape(2, f.c)
    scaled = fma(fl(fl(f.c * v - s1) / g), multiplier, shift)
    _result(f, sram, f.h, f.w, f.c, quantise(scaled, f.dst_zero, f.dst_type))


def _topk(f: Any, sram: Array, acc: Array, target: Target) -> None:
    assert f.k <= f.c, "topk: k is at most c"
    assert f.values_on or f.indices_on, "topk: one of the two must be set"
    data = _source(f, sram)
    key = number(data, f.src_type) * (1 if f.order else -1)
    if f.last:
        found = f.c - 1 - np.argsort(key[..., ::-1], axis=2, kind="stable")[..., : f.k]
    else:
        found = np.argsort(key, axis=2, kind="stable")[..., : f.k]
    if f.values_on:
        _result(f, sram, f.h, f.w, f.k, np.take_along_axis(data, found, axis=2))
    if f.indices_on:
        indices = np.ascontiguousarray(found, I32).view(U8)  # bytes: at any address
        _write(sram, _image(f, "index", f.h, f.w, 4 * f.k, 1), indices)


KERNELS: dict[str, Callable[[Any, Array, Array, Target], None]] = {
    "fill": _fill, "copy": _copy, "conv": _conv, "dwconv": _dwconv, "map": _map, "pool": _pool,
    "reduce": _reduce, "resize": _resize, "softmax": _softmax, "lrn": _lrn, "norm": _norm, "topk": _topk,
}  # fmt: skip
