"""Every instruction against a plain NumPy twin, written from the instruction's fields and formulas."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from ommatid.isa.target import Target, load_target
from ommatid.isa.weights import pack_weights
from ommatid.simulator.kernels.multiply import available
from tests.simulator.builder import HIGH, LOW, SIZE, Scene, addresses, put

Array = np.ndarray[Any, Any]
F32 = np.float32

examples = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
channels = st.sampled_from([1, 3, 17, 32, 360])
small = st.integers(1, 5)
signs = st.integers(0, 1)
kinds = st.integers(0, 2)  # types of elements: u8, i8, i16
flags = st.booleans()


def numbers(data: Array, kind: int) -> Array:
    """Bytes, or numbers of another 8-bit type, as those they stand for (int64); those of 16 bits as they are."""
    return (data - LOW[kind]) % 256 + LOW[kind] if kind < 2 else data


def quantised(t: Array, zero: int, kind: int) -> Array:
    """Clamp to the type's range less the zero point, round half to even, add the zero point (int64)."""
    assert t.dtype == F32
    low, high = LOW[kind], HIGH[kind]
    q: Array = np.rint(np.clip(t, F32(low - zero), F32(high - zero))).astype(np.int64) + zero
    assert q.min(initial=low) >= low and q.max(initial=high) <= high
    return q


def fma(a: Any, b: Any, c: Any) -> Array:
    """float32 a * b + c, rounded once: the float64 sum is rounded to odd, so the second rounding is right."""
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)  # exact
    addend = np.asarray(c, np.float64)
    total = np.asarray(product + addend)
    part = total - product
    error = (product - (total - part)) + (addend - part)
    even = (total.view(np.int64) & 1) == 0
    towards = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where((error != 0) & even, towards, total).astype(F32)


def zero_point(rng: np.random.Generator, kind: int) -> int:
    return int(rng.integers(LOW[kind], HIGH[kind] + 1)) if kind < 2 else 0


def spread(kind: int) -> float:
    """How many times more numbers a type has than 8 bits, for scales that use them."""
    return 256.0 if kind == 2 else 1.0


class Window:
    """Random fields of a sliding window over an image, and the input at each tap."""

    def __init__(self, scene: Scene, h: int, w: int, c: int, kind: int, kernel_row: bool = False) -> None:
        rng = scene.rng

        def number(low: int, high: int) -> int:
            return int(rng.integers(low, high + 1))

        where, index = scene.image("src", h, w, c, dense=kernel_row, kind=kind)
        self.zero = zero_point(rng, kind)
        self.kh, self.kw = number(1, 4), number(1, 4)
        self.stride = number(1, 3), number(1, 3)
        self.dilation = number(1, 2), 1 if kernel_row else number(1, 2)
        self.pad = number(-1, 3), number(-1, 3)
        self.out = self.out_h, self.out_w = number(1, 3), number(1, 4)
        self.data = scene.numbers(index, kind)
        self.fields: dict[str, int] = where | {
            "in_h": h, "in_w": w, "kh": self.kh, "kw": self.kw, "out_h": self.out_h, "out_w": self.out_w,
            "pad_top": self.pad[0], "pad_left": self.pad[1],
            "stride_h": self.stride[0], "stride_w": self.stride[1],
            "dilation_h": self.dilation[0], "dilation_w": self.dilation[1],
            "src_zero": self.zero, "src_type": kind,
        }  # fmt: skip

    def taps(self) -> tuple[Array, Array]:
        """(numbers [kh, kw, out_h, out_w, c], whether it is inside the input [kh, kw, out_h, out_w, 1])."""
        h, w, _ = self.data.shape
        top, left = (np.arange(n) * s - p for n, s, p in zip(self.out, self.stride, self.pad, strict=True))
        y = np.arange(self.kh)[:, None, None, None] * self.dilation[0] + top[:, None]
        x = np.arange(self.kw)[:, None, None] * self.dilation[1] + left
        inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
        return self.data[np.clip(y, 0, h - 1), np.clip(x, 0, w - 1)], inside[..., None]

    def less_zero(self) -> Array:
        """The taps less the zero point, 0 on padding."""
        data, inside = self.taps()
        return np.where(inside, data - self.zero, 0)


def check_accumulators(
    scene: Scene, machine: Any, index: Array, sums: Array, accumulate: bool, size: int = 4
) -> None:
    bits, expected = (32, scene.acc.copy()) if size == 4 else (48, scene.acc.view(np.int64).copy())
    total = sums.reshape(index.shape) + (expected[index].astype(np.int64) if accumulate else 0)
    expected[index] = (total + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
    np.testing.assert_array_equal(machine.acc[0].view(expected.dtype), expected)
    np.testing.assert_array_equal(machine.sram[0], scene.sram)


def check_sram(scene: Scene, machine: Any, index: Any, values: Array, kind: int = 0) -> None:
    expected = scene.sram.copy()
    put(expected, index, values, kind)
    np.testing.assert_array_equal(machine.sram[0], expected)
    np.testing.assert_array_equal(machine.acc[0], scene.acc)


def array_of(lanes: int, k: int) -> Target:
    """A chip whose array has this many channels and bytes along K; any but 8 x 8 and 16 x 16 are no preset's."""
    return replace(
        load_target("ommatid-256" if lanes == 8 else "ommatid-1k"), mx_channels=lanes, mx_k_bytes=k
    )


@pytest.mark.parametrize("path", available())
@settings(examples, max_examples=60)
@given(
    seeds, st.sampled_from([(8, 8), (16, 16), (12, 16), (32, 16), (16, 12)]), small, small, channels,
    st.sampled_from([1, 3, 17, 40]), st.sampled_from([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]), flags, flags,
    st.sampled_from([0, 128, None]),
)  # fmt: skip
def test_conv(
    path: str, seed: int, array: tuple[int, int], h: int, w: int, cin: int, cout: int, types: tuple[int, int],
    row_mode: bool, accumulate: bool, shift: int | None,
) -> None:  # fmt: skip
    (kind, weights_type), scene = types, Scene(seed, array_of(*array))
    window = Window(scene, h, w, cin, kind, kernel_row=row_mode)
    zero, dtype = 0, (np.uint8, np.int8, np.int16)[weights_type]
    if weights_type < 2:
        zero = zero_point(scene.rng, weights_type) if shift is None else shift - 128 * weights_type
    weights = scene.rng.integers(
        LOW[weights_type], HIGH[weights_type] + 1, (cout, window.kh, window.kw, cin), dtype
    )
    filler = dtype(zero)  # also in the places that fill up a tile
    packed = pack_weights(weights ^ filler, row_mode, scene.target).view(dtype) ^ filler
    acc, index = scene.accumulators(window.out_h * window.out_w, cout, 4 * SIZE[kind])
    machine = scene.run(
        "conv", path, **window.fields, **acc, cin=cin, cout=cout,
        row_mode=int(row_mode), accumulate=int(accumulate), weights_type=weights_type, weights_zero=zero,
        weights=scene.put(packed, 16),
    )  # fmt: skip
    sums = np.einsum("ijyxc,oijc->yxo", window.less_zero(), weights.astype(np.int64) - zero)
    check_accumulators(scene, machine, index, sums, accumulate, 4 * SIZE[kind])


@examples
@given(seeds, small, small, channels, kinds, flags)
def test_dwconv(seed: int, h: int, w: int, c: int, kind: int, accumulate: bool) -> None:
    scene = Scene(seed)
    window = Window(scene, h, w, c, kind)
    tap = c + int(scene.rng.integers(0, 5))
    weights = scene.rng.integers(-128, 128, (window.kh, window.kw, tap), np.int8)
    acc, index = scene.accumulators(window.out_h * window.out_w, c, 4 * SIZE[kind])
    machine = scene.run(
        "dwconv", **window.fields, **acc, c=c, accumulate=int(accumulate),
        weights=scene.put(weights), weights_tap=tap,
    )  # fmt: skip
    sums = np.einsum("ijyxc,ijc->yxc", window.less_zero(), weights[..., :c].astype(np.int64))
    check_accumulators(scene, machine, index, sums, accumulate, 4 * SIZE[kind])


def map_source(
    scene: Scene, source: int, h: int, w: int, c: int, most: int
) -> tuple[dict[str, Any], Array, int]:
    """Random fields of step 1, the numbers after it, and their type, ``most`` at most."""
    rng = scene.rng
    kind, mid = rng.integers(0, most + 1, 2).tolist()
    zero, mid_zero = zero_point(rng, kind), zero_point(rng, mid)
    fields: dict[str, Any] = {
        "source": source, "src_zero": zero, "src_type": kind, "mid_zero": mid_zero, "mid_type": mid,
    }  # fmt: skip
    if source == 1:
        size = int(rng.choice([4, 8])) if most == 2 else 4
        pixel, row = size * (c + 1), size * (c + 1) * w + 8
        held = scene.acc if size == 4 else scene.acc.view(np.int64)
        sums = held[addresses(16 // size, (h, row // size), (w, pixel // size), (c, 1))].astype(np.int64)
        bias = rng.integers(-(1 << 20), 1 << 20, c, np.int32)
        factor = (rng.uniform(1e-6, 3e-5, c) * spread(mid)).astype(F32)
        if size == 8:
            factor /= F32(2**22)
        address = scene.put(np.concatenate([bias, factor.view(np.int32)]), 4)
        fields |= {"src": 16, "src_row": row, "src_pixel": pixel, "parameters": address, "acc_bytes": size}
        total = sums + bias
        if size == 8:
            total = (total + 2**47) % 2**48 - 2**47
        return fields, quantised(total.astype(F32) * factor, mid_zero, mid), mid
    where, index = scene.image("src", h, w, c, kind=kind)
    fields |= where
    x = scene.numbers(index, kind)
    if source == 0:
        return fields, x, kind
    shift = (rng.normal(0, 30, c) * spread(mid)).astype(F32)
    slopes = (rng.normal(0, 1, (2, c)) * spread(mid) / spread(kind)).astype(F32)
    fields["parameters"] = scene.put(np.concatenate([shift[None], slopes]), 4)
    x = x - zero
    return fields, quantised(fma(x, np.where(x >= 0, slopes[0], slopes[1]), shift), mid_zero, mid), mid


def map_table(
    scene: Scene, name: str, data: Array, kind: int, most: int
) -> tuple[dict[str, Any], Array, int]:
    """A random table, the numbers after it, and their type."""
    rng = scene.rng
    if kind == 2:
        table = rng.integers(-32768, 32768, 513, np.int16)
        table[rng.integers(0, 512)] = 32767
        u, entries = data + 32768, table.astype(np.int64)
        low, high = entries[u >> 7], entries[(u >> 7) + 1]
        return {f"{name}_on": 3, name: scene.put(table, 2)}, low + (((high - low) * (u & 127) + 64) >> 7), 2
    if most == 2 and rng.random() < 0.5:
        table = rng.integers(-32768, 32768, 256, np.int16)
        return {f"{name}_on": 2, name: scene.put(table, 2)}, table[data & 255].astype(np.int64), 2
    table = rng.permutation(256).astype(np.uint8)
    return {f"{name}_on": 1, name: scene.put(table)}, table[data & 255].astype(np.int64), 0


def map_binary(
    scene: Scene, kind: int, first: Array, first_type: int, most: int = 1
) -> tuple[dict[str, Any], Array, int]:
    """Random fields of step 3, the numbers after it, and their type; the second operand may be broadcast."""
    rng = scene.rng
    h, w, c = first.shape
    have = [1 if rng.random() < 0.4 else n for n in first.shape]
    a_type, b_type, r_type = rng.integers(0, most + 1, 3).tolist()
    a_type = 2 if first_type == 2 else a_type % 2
    where, index = scene.image("operand", have[0], have[1], have[2], kind=b_type)
    where["operand_row"] *= have[0] > 1 or h == 1
    where["operand_pixel"] *= have[1] > 1 or w == 1
    a_zero, b_zero, r_zero = (zero_point(rng, s) for s in (a_type, b_type, r_type))
    a, b = numbers(first, a_type), np.broadcast_to(scene.numbers(index, b_type), first.shape)
    fields = where | {
        "binary": kind, "operand_c": int(have[2] == c), "a_type": a_type, "b_type": b_type, "r_type": r_type,
        "a_zero": a_zero, "b_zero": b_zero, "r_zero": r_zero,
    }  # fmt: skip
    if kind == 1:
        r_a, r_b = (F32(rng.uniform(0.1, 1.5) * spread(r_type) / spread(s)) for s in (a_type, b_type))
        addend = F32(r_zero - fma(r_a, a_zero, r_b * F32(b_zero)))
        t = fma(a, r_a, fma(b, r_b, addend))
        fields |= {"a_factor": r_a, "b_factor": r_b, "addend": addend}
        return fields, quantised(t, 0, r_type), r_type
    factor = F32(rng.uniform(0.0005, 0.02) * spread(r_type) / spread(a_type) / spread(b_type))
    fields["a_factor"] = factor
    return fields, quantised(((a - a_zero) * (b - b_zero)).astype(F32) * factor, r_zero, r_type), r_type


@settings(examples, max_examples=120)
@given(seeds, small, small, channels, st.integers(0, 2), st.integers(0, 2), flags, flags, st.integers(1, 2))
def test_map(
    seed: int, h: int, w: int, c: int, source: int, binary: int, table1: bool, table2: bool, most: int
) -> None:
    scene = Scene(seed)
    h = min(h, 2) if source == 1 else h
    fields, data, kind = map_source(scene, source, h, w, c, most)
    for name, on in (("table1", table1), ("table2", table2)):
        if name == "table2" and binary:
            more, data, kind = map_binary(scene, binary, data, kind, most)
            fields |= more
        if on:
            more, data, kind = map_table(scene, name, data, kind, most)
            fields |= more
    where, index = scene.image("dst", h, w, c, kind=kind)
    machine = scene.run("map", h=h, w=w, c=c, **fields, **where)
    check_sram(scene, machine, index, data, kind)


def test_map_of_dense_rows() -> None:
    # taken sixteen elements by sixteen, if the second operand lies densely too
    for seed in range(24):
        scene, kind = Scene(seed), seed % 3
        where, index = scene.image("src", 2, 4, 16, dense=True, kind=kind)
        more, data, result = map_binary(scene, 1 + seed % 2, scene.numbers(index, kind), kind, 1 + seed % 2)
        to, place = scene.image("dst", 2, 4, 16, dense=True, kind=result)
        machine = scene.run("map", h=2, w=4, c=16, src_type=kind, **where, **more, **to)
        check_sram(scene, machine, place, data, result)


@examples
@given(seeds, small, small, channels, kinds, kinds, flags, flags)
def test_pool(seed: int, h: int, w: int, c: int, kind: int, out: int, average: bool, count_pad: bool) -> None:
    out, scene = out if average or SIZE[out] == SIZE[kind] else kind, Scene(seed)
    window = Window(scene, h, w, c, kind)
    dst_zero, factor = zero_point(scene.rng, out), F32(scene.rng.uniform(0.2, 3) * spread(out) / spread(kind))
    where, index = scene.image("dst", window.out_h, window.out_w, c, kind=out)
    machine = scene.run(
        "pool", **window.fields, **where, c=c, kind=int(average), count_pad=int(count_pad), factor=factor,
        dst_zero=dst_zero, dst_type=out,
    )  # fmt: skip
    data, inside = window.taps()
    if not average:
        result = np.where(inside, data, LOW[kind]).max(axis=(0, 1))
    else:
        taps = window.kh * window.kw if count_pad else np.maximum(inside.sum(axis=(0, 1)), 1)
        total = window.less_zero().sum(axis=(0, 1)).astype(F32)
        result = quantised(total * factor / np.asarray(taps, F32), dst_zero, out)
    check_sram(scene, machine, index, result, out)


def test_sums_of_16_bits_need_not_fit_in_int32() -> None:
    """70 000 times -32768, averaged; an int32 accumulator of reduce wraps."""
    scene = Scene(0)
    src, index = scene.image("src", 280, 250, 3, kind=2)
    put(scene.sram, index, np.array(-32768), 2)
    dst, to = scene.image("dst", 1, 1, 3, kind=2)
    machine = scene.run(
        "pool", **src, **dst, in_h=280, in_w=250, kh=280, kw=250, c=3, kind=1, factor=F32(0.5), src_type=2, dst_type=2,
    )  # fmt: skip
    check_sram(scene, machine, to, np.array(-16384), 2)
    acc, sums = scene.accumulators(1, 3)
    machine = scene.run("reduce", h=280, w=250, c=3, **src, src_type=2, acc=acc["acc"])
    check_accumulators(scene, machine, sums, np.full((1, 3), -32768 * 70_000), False)


def test_norm_of_16_bits_at_its_limits() -> None:
    """30 000 channels, half of them 32767, half -32768: D is about 2 ** 60, d about 2 ** 30."""
    scene, c = Scene(1), 30_000
    src, index = scene.image("src", 1, 1, c, kind=2)
    v = np.where(np.arange(c) % 2, 32767, -32768)
    put(scene.sram, index[0, 0], v, 2)
    dst, to = scene.image("dst", 1, 1, c, kind=2)
    factors = np.stack([np.full(c, 20_000), np.arange(c) % 100]).astype(F32)
    machine = scene.run(
        "norm", h=1, w=1, c=c, **src, **dst, src_type=2, dst_type=2, centre=1, epsilon=F32(1),
        parameters=scene.put(factors, 4),
    )  # fmt: skip
    s1, s2 = int(v.sum()), int((v.astype(object) ** 2).sum())
    root = np.sqrt(F32(c * s2 - s1**2) + F32(1))
    t = fma((c * v - s1).astype(F32) / root, factors[0], factors[1])
    check_sram(scene, machine, to[0, 0], quantised(t, 0, 2), 2)


@examples
@given(seeds, small, small, channels, kinds, flags)
def test_reduce(seed: int, h: int, w: int, c: int, kind: int, accumulate: bool) -> None:
    scene = Scene(seed)
    where, index = scene.image("src", h, w, c, kind=kind)
    zero = zero_point(scene.rng, kind)
    acc, sums = scene.accumulators(1, c)
    machine = scene.run(
        "reduce", h=h, w=w, c=c, **where, src_zero=zero, src_type=kind, acc=acc["acc"],
        accumulate=int(accumulate),
    )  # fmt: skip
    total = (scene.numbers(index, kind) - zero).sum(axis=(0, 1))
    check_accumulators(scene, machine, sums, total, accumulate)


@examples
@given(seeds, small, small, small, small, channels, kinds, kinds, flags)
def test_resize(
    seed: int, h: int, w: int, out_h: int, out_w: int, c: int, kind: int, out: int, four: bool
) -> None:
    scene = Scene(seed)
    rng = scene.rng
    where, index = scene.image("src", h, w, c, kind=kind)

    def entries(count: int, size: int) -> Array:
        table = np.zeros((count, 4), np.uint16)
        table[:, :2] = rng.integers(0, size, (count, 2))
        table[:, 2] = rng.integers(0, 2049, count) if four else 2048
        table[:, 3] = 2048 - table[:, 2]
        return table

    rows, columns = entries(out_h, h), entries(out_w, w)
    zero, dst_zero = zero_point(rng, kind), zero_point(rng, out)
    factor = F32(rng.uniform(0.3, 2) / 2**22 * spread(out) / spread(kind))
    to, to_index = scene.image("dst", out_h, out_w, c, kind=out)
    machine = scene.run(
        "resize", **where, **to, in_h=h, in_w=w, out_h=out_h, out_w=out_w, c=c, taps=int(four),
        rows=scene.put(rows, 8), columns=scene.put(columns, 8), src_zero=zero, src_type=kind,
        factor=factor, dst_zero=dst_zero, dst_type=out,
    )  # fmt: skip
    x = scene.numbers(index, kind) - zero
    total = np.zeros((out_h, out_w, c), np.int64)
    for i in (0, 1):
        for j in (0, 1):
            weight = rows[:, None, 2 + i].astype(np.int64) * columns[None, :, 2 + j]
            total += weight[..., None] * x[rows[:, i]][:, columns[:, j]]
    check_sram(scene, machine, to_index, quantised(total.astype(F32) * factor, dst_zero, out), out)


@examples
@given(seeds, small, small, channels, kinds, kinds)
def test_softmax(seed: int, h: int, w: int, c: int, kind: int, out: int) -> None:
    scene = Scene(seed)
    where, index = scene.image("src", h, w, c, kind=kind)
    scale, unit = scene.rng.uniform(0.01, 0.3) / spread(kind), 2**24 if kind < 2 else 2**32 - 1
    tables = [np.floor(np.exp(-np.arange(256) * step * scale) * unit).astype(np.uint32) for step in (256, 1)]
    table = np.concatenate(tables) if kind == 2 else tables[1]
    dst_zero, factor = (0, -128, 0)[out], F32((256, 256, 32768)[out])
    to, to_index = scene.image("dst", h, w, c, kind=out)
    machine = scene.run(
        "softmax", h=h, w=w, c=c, **where, **to, table=scene.put(table, 4), src_type=kind, factor=factor,
        dst_zero=dst_zero, dst_type=out,
    )  # fmt: skip
    x = scene.numbers(index, kind)
    d = x.max(axis=-1, keepdims=True) - x
    e = table[d & 255].astype(np.uint64)
    if kind == 2:
        e = tables[0][d >> 8].astype(np.uint64) * tables[1][d & 255] >> np.uint64(32)
    total = e.sum(axis=-1, keepdims=True, dtype=np.uint64)
    result = quantised(e.astype(F32) / total.astype(F32) * factor, dst_zero, out)
    check_sram(scene, machine, to_index, result, out)


@examples
@given(seeds, small, small, channels, st.integers(1, 6), kinds, kinds)
def test_lrn(seed: int, h: int, w: int, c: int, size: int, kind: int, out: int) -> None:
    scene = Scene(seed)
    rng = scene.rng
    where, index = scene.image("src", h, w, c, kind=kind)
    zero, dst_zero = zero_point(rng, kind), zero_point(rng, out)
    alpha, bias = F32(rng.uniform(1e-6, 1e-3) / spread(kind) ** 2), F32(rng.uniform(0.5, 2))
    factor = F32(rng.uniform(0.2, 2) * spread(out) / spread(kind))
    to, to_index = scene.image("dst", h, w, c, kind=out)
    machine = scene.run(
        "lrn", h=h, w=w, c=c, **where, **to, size=size, src_zero=zero, src_type=kind, alpha=alpha,
        bias=bias, factor=factor, dst_zero=dst_zero, dst_type=out,
    )  # fmt: skip
    x = scene.numbers(index, kind) - zero
    padded = np.pad(x * x, [(0, 0), (0, 0), ((size - 1) // 2, size // 2)])
    total = sum(padded[..., d : d + c] for d in range(size))
    u = np.asarray(total).astype(F32) * alpha + bias
    root = np.sqrt(u)
    result = quantised(x.astype(F32) * factor / (root * np.sqrt(root)), dst_zero, out)
    check_sram(scene, machine, to_index, result, out)


@examples
@given(seeds, small, small, channels, kinds, kinds, signs, st.sampled_from([1e-30, 0.5, 1e6]))
def test_norm(seed: int, h: int, w: int, c: int, kind: int, out: int, centre: int, epsilon: float) -> None:
    scene = Scene(seed)
    rng = scene.rng
    where, index = scene.image("src", h, w, c, kind=kind)
    put(scene.sram, index[0, 0], np.array(7), kind)  # a pixel of equal numbers
    zero, dst_zero = zero_point(rng, kind), zero_point(rng, out)
    factors = (np.stack([rng.normal(0, 60, c), rng.normal(0, 20, c)]) * spread(out)).astype(F32)
    to, to_index = scene.image("dst", h, w, c, kind=out)
    machine = scene.run(
        "norm", h=h, w=w, c=c, **where, **to, src_zero=zero, src_type=kind, centre=centre, epsilon=F32(epsilon),
        parameters=scene.put(factors, 4), dst_zero=dst_zero, dst_type=out,
    )  # fmt: skip
    v = scene.numbers(index, kind) - zero
    s1 = v.sum(axis=-1, keepdims=True) * centre
    d = (c * (v**2).sum(axis=-1, keepdims=True) - s1**2).astype(F32)
    t = fma((c * v - s1).astype(F32) / np.sqrt(d + F32(epsilon)), factors[0], factors[1])
    check_sram(scene, machine, to_index, quantised(t, dst_zero, out), out)


@examples
@given(seeds, small, small, channels, st.data(), kinds, signs, signs, st.integers(1, 3))
def test_topk(
    seed: int, h: int, w: int, c: int, data: st.DataObject, kind: int, order: int, last: int, written: int
) -> None:
    scene = Scene(seed)
    where, index = scene.image("src", h, w, c, kind=kind)
    scene.sram[index] %= scene.rng.choice([3, 255], (h, w, 1)).astype(np.uint8)  # many that are equal
    if kind == 2:
        scene.sram[index + 1] %= scene.rng.choice([3, 255], (h, w, 1)).astype(np.uint8)
    k = data.draw(st.integers(1, c))
    values, values_at = scene.image("dst", h, w, k, kind=kind)
    indices, indices_at = scene.image("index", h, w, 4 * k)
    machine = scene.run(
        "topk", h=h, w=w, c=c, **where, **values, **indices, src_type=kind, k=k, order=order, last=last,
        values_on=written & 1, indices_on=written >> 1,
    )  # fmt: skip
    x = scene.numbers(index, kind)
    expected = scene.sram.copy()
    for y, column in np.ndindex(h, w):
        rank = [(n if order else -n, -ch if last else ch) for ch, n in enumerate(x[y, column].tolist())]
        found = sorted(range(c), key=rank.__getitem__)[:k]
        if written & 1:
            put(expected, values_at[y, column], x[y, column, found], kind)
        if written >> 1:
            expected[indices_at[y, column]] = np.array(found, "<i4").view(np.uint8)
    check_sram(scene, machine, slice(None), expected)


@examples
@given(seeds, st.lists(st.integers(1, 6), min_size=4, max_size=4), st.integers(1, 2))
def test_copy(seed: int, counts: list[int], element: int) -> None:
    scene = Scene(seed)
    size = element * int(np.prod(counts))
    fields = {f"n{i}": n for i, n in enumerate(counts)} | {"element_bytes": element}
    index = {}
    for side in ("src", "dst"):
        strides, step = [0] * 4, element
        for i in scene.rng.permutation(4):  # any order of the loops, some of them backwards
            strides[i], step = step, step * counts[i]
        address = scene.take(size, element)
        for i in np.flatnonzero(scene.rng.random(4) < 0.3):
            address, strides[i] = address + (counts[i] - 1) * strides[i], -strides[i]
        fields |= {side: address} | {f"{side}_s{i}": s for i, s in enumerate(strides)}
        index[side] = addresses(address, *zip(counts, strides, strict=True))
    machine = scene.run("copy", **fields)
    kind = 2 * (element - 1)
    check_sram(scene, machine, index["dst"], scene.numbers(index["src"], kind), kind)


def dma_side(scene: Scene, counts: list[int], run: int, side: str, size: int) -> tuple[dict[str, int], Array]:
    strides, step = [], run
    for n in counts:
        step += int(scene.rng.integers(0, 4))
        strides.append(step)
        step *= n
    first = int(scene.rng.integers(0, size - step))
    fields = {side: first} | {f"{side}_s{i + 1}": s for i, s in enumerate(strides)}
    return fields, addresses(first, *zip(counts, strides, strict=True), (run, 1))


dma_counts = st.lists(st.integers(1, 5), min_size=3, max_size=3)


@examples
@given(seeds, dma_counts, st.integers(1, 100), st.sampled_from(["load", "store"]))
def test_load_and_store(seed: int, counts: list[int], run: int, mnemonic: str) -> None:
    scene = Scene(seed)
    counted = {f"n{i + 1}": n for i, n in enumerate(counts)}
    src, source = dma_side(scene, counts, run, "src", len(scene.dram))
    dst, to = dma_side(scene, counts, run, "dst", len(scene.dram))
    machine = scene.run(mnemonic, run=run, **counted, **src, **dst)
    expected_sram, expected_dram = scene.sram.copy(), scene.dram.copy()
    if mnemonic == "load":
        expected_sram[to] = scene.dram[source]
    else:
        expected_dram[to] = scene.sram[source]
    np.testing.assert_array_equal(machine.sram[0], expected_sram)
    np.testing.assert_array_equal(machine.dram, expected_dram)


@examples
@given(seeds, dma_counts, st.integers(1, 100), st.integers(0, 255))
def test_fill(seed: int, counts: list[int], run: int, value: int) -> None:
    scene = Scene(seed)
    counted = {f"n{i + 1}": n for i, n in enumerate(counts)}
    dst, to = dma_side(scene, counts, run, "dst", len(scene.sram))
    check_sram(
        scene, scene.run("fill", run=run, **counted, **dst, value=value), to, np.array(value, np.uint8)
    )


def test_end_changes_nothing() -> None:
    scene = Scene(0)
    check_sram(scene, scene.run("end"), np.arange(0), np.zeros(0, np.uint8))


def qlinear_conv(x: Array, weights: Array, bias: Array, scales: dict[str, Any], **attributes: Any) -> Array:
    """onnxruntime's QLinearConv of x [1, c, h, w]."""
    names = ["x_scale", "x_zero", "w_scale", "w_zero", "y_scale", "y_zero"]
    values = [scales[n] for n in names]
    constants = [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in zip(names, values, strict=True)]
    constants += [onnx.numpy_helper.from_array(weights, "w"), onnx.numpy_helper.from_array(bias, "b")]
    inputs = ["x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero", "b"]
    graph = helper.make_graph(
        [helper.make_node("QLinearConv", inputs, ["y"], **attributes)],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("cin, cout, k, stride, pad, dilation", [
    (3, 16, 3, 2, 1, 1), (17, 40, 1, 1, 0, 1), (32, 24, 3, 1, 1, 1), (16, 8, 3, 1, 2, 2),
    (64, 33, 5, 2, 2, 1),
])  # fmt: skip
def test_conv_and_map_equal_onnxruntime(
    cin: int, cout: int, k: int, stride: int, pad: int, dilation: int
) -> None:
    scene = Scene(cin * cout)
    rng, size = scene.rng, 16
    x = rng.integers(0, 256, (1, cin, size, size), np.uint8)
    weights = rng.integers(-63, 64, (cout, cin, k, k), np.int8)  # no CPU's pairwise sums saturate
    bias = rng.integers(-20000, 20000, cout, np.int32)
    scales: dict[str, Any] = {
        "x_scale": F32(0.0213), "x_zero": np.uint8(117),
        "w_scale": rng.uniform(0.002, 0.02, cout).astype(F32), "w_zero": np.zeros(cout, np.int8),
        "y_scale": F32(0.1 * (cin * k * k / 27) ** 0.5), "y_zero": np.uint8(101),
    }  # fmt: skip
    expected = qlinear_conv(
        x, weights, bias, scales, kernel_shape=[k, k], strides=[stride] * 2, pads=[pad] * 4,
        dilations=[dilation] * 2,
    )  # fmt: skip
    assert len(np.unique(expected)) > 150
    out = expected.shape[2]
    row_mode = int(cin == 3)
    source = scene.put(x[0].transpose(1, 2, 0))
    acc = {"acc": 0, "acc_pixel": 4 * cout}
    machine = scene.run(
        "conv", src=source, src_row=size * cin, src_pixel=cin, in_h=size, in_w=size,
        pad_top=pad, pad_left=pad, kh=k, kw=k, stride_h=stride, stride_w=stride,
        dilation_h=dilation, dilation_w=dilation, out_h=out,
        out_w=out, src_zero=117, cin=cin, cout=cout, row_mode=row_mode, **acc, weights_type=1,
        weights=scene.put(pack_weights(weights.transpose(0, 2, 3, 1), bool(row_mode), scene.target), 16),
    )  # fmt: skip
    scene.acc[:] = machine.acc[0]
    factor = (scales["x_scale"] * scales["w_scale"]) / scales["y_scale"]
    parameters = scene.put(np.concatenate([bias, factor.astype(F32).view(np.int32)]), 4)
    to = scene.take(out * out * cout)
    machine = scene.run(
        "map", h=out, w=out, c=cout, source=1, src=0, src_row=4 * cout * out, src_pixel=4 * cout,
        parameters=parameters, mid_zero=101, dst=to, dst_row=out * cout, dst_pixel=cout,
    )  # fmt: skip
    y = machine.sram[0][to : to + out * out * cout].reshape(out, out, cout).transpose(2, 0, 1)
    np.testing.assert_array_equal(y, expected[0])


def test_paths_are_those_of_the_cpu() -> None:
    info = Path("/proc/cpuinfo")
    listed = re.findall(r"^flags\s*: (.*)$", info.read_text(), re.MULTILINE) if info.exists() else []
    flags = set(" ".join(listed).split())
    if not flags:
        pytest.skip("only Linux on x86 lists what its CPU has")
    wide = {"avx512_vnni", "avx512vl"} <= flags
    has = {"vnni512": wide, "vnni": wide or "avx_vnni" in flags, "avx2": "avx2" in flags, "portable": True}
    assert available() == tuple(path for path, there in has.items() if there)
