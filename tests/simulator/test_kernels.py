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
from tests.simulator.builder import Scene, addresses

Array = np.ndarray[Any, Any]
F32 = np.float32

examples = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
channels = st.sampled_from([1, 3, 17, 32, 360])
small = st.integers(1, 5)
signs = st.integers(0, 1)
flags = st.booleans()


def numbers(data: Array, signed: int) -> Array:
    """Bytes as the numbers they stand for (int64)."""
    return np.asarray(data.view(np.int8 if signed else np.uint8), np.int64)


def quantised(t: Array, zero: int, signed: int) -> Array:
    """Clamp to the type's range less the zero point, round half to even, add the zero point; as bytes."""
    assert t.dtype == F32
    low, high = (-128, 127) if signed else (0, 255)
    q: Array = np.rint(np.clip(t, F32(low - zero), F32(high - zero))).astype(np.int64) + zero
    assert q.min(initial=low) >= low and q.max(initial=high) <= high
    return (q & 255).astype(np.uint8)


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


def zero_point(rng: np.random.Generator, signed: int) -> int:
    return int(rng.integers(-128, 128) if signed else rng.integers(0, 256))


class Window:
    """Random fields of a sliding window over an image, and the input at each tap."""

    def __init__(self, scene: Scene, h: int, w: int, c: int, signed: int, kernel_row: bool = False) -> None:
        rng = scene.rng

        def number(low: int, high: int) -> int:
            return int(rng.integers(low, high + 1))

        where, index = scene.image("src", h, w, c, dense=kernel_row)
        self.signed, self.zero = signed, zero_point(rng, signed)
        self.kh, self.kw = number(1, 4), number(1, 4)
        self.stride = number(1, 3), number(1, 3)
        self.dilation = number(1, 2), 1 if kernel_row else number(1, 2)
        self.pad = number(-1, 3), number(-1, 3)
        self.out = self.out_h, self.out_w = number(1, 3), number(1, 4)
        self.data = numbers(scene.sram[index], signed)
        self.fields: dict[str, int] = where | {
            "in_h": h, "in_w": w, "kh": self.kh, "kw": self.kw, "out_h": self.out_h, "out_w": self.out_w,
            "pad_top": self.pad[0], "pad_left": self.pad[1],
            "stride_h": self.stride[0], "stride_w": self.stride[1],
            "dilation_h": self.dilation[0], "dilation_w": self.dilation[1],
            "src_zero": self.zero, "src_type": signed,
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


def check_accumulators(scene: Scene, machine: Any, index: Array, sums: Array, accumulate: bool) -> None:
    expected = scene.acc.astype(np.int64)
    expected[index] = sums.reshape(index.shape) + (expected[index] if accumulate else 0)
    np.testing.assert_array_equal(machine.acc[0], expected)
    np.testing.assert_array_equal(machine.sram[0], scene.sram)


def check_sram(scene: Scene, machine: Any, index: Any, values: Array) -> None:
    expected = scene.sram.copy()
    expected[index] = values
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
    st.sampled_from([1, 3, 17, 40]), signs, flags, flags, signs, st.sampled_from([0, 128, None]),
)  # fmt: skip
def test_conv(
    path: str, seed: int, array: tuple[int, int], h: int, w: int, cin: int, cout: int, signed: int, row_mode: bool,
    accumulate: bool, weights_type: int, shift: int | None,
) -> None:  # fmt: skip
    scene = Scene(seed, array_of(*array))
    window = Window(scene, h, w, cin, signed, kernel_row=row_mode)
    weights = scene.rng.integers(0, 256, (cout, window.kh, window.kw, cin), np.uint8)
    zero = zero_point(scene.rng, weights_type) if shift is None else shift - 128 * weights_type
    byte = np.uint8(zero & 255)  # also in the places that fill up a tile
    acc, index = scene.accumulators(window.out_h * window.out_w, cout)
    machine = scene.run(
        "conv", path, **window.fields, **acc, cin=cin, cout=cout,
        row_mode=int(row_mode), accumulate=int(accumulate), weights_type=weights_type, weights_zero=zero,
        weights=scene.put(pack_weights((weights ^ byte).view(np.int8), row_mode, scene.target) ^ byte, 16),
    )  # fmt: skip
    sums = np.einsum("ijyxc,oijc->yxo", window.less_zero(), numbers(weights, weights_type) - zero)
    check_accumulators(scene, machine, index, sums, accumulate)


@examples
@given(seeds, small, small, channels, signs, flags)
def test_dwconv(seed: int, h: int, w: int, c: int, signed: int, accumulate: bool) -> None:
    scene = Scene(seed)
    window = Window(scene, h, w, c, signed)
    tap = c + int(scene.rng.integers(0, 5))
    weights = scene.rng.integers(-128, 128, (window.kh, window.kw, tap), np.int8)
    acc, index = scene.accumulators(window.out_h * window.out_w, c)
    machine = scene.run(
        "dwconv", **window.fields, **acc, c=c, accumulate=int(accumulate),
        weights=scene.put(weights), weights_tap=tap,
    )  # fmt: skip
    sums = np.einsum("ijyxc,ijc->yxc", window.less_zero(), weights[..., :c].astype(np.int64))
    check_accumulators(scene, machine, index, sums, accumulate)


def map_source(scene: Scene, source: int, h: int, w: int, c: int) -> tuple[dict[str, Any], Array]:
    """Random fields of step 1 and the bytes after it."""
    rng = scene.rng
    signed, mid = int(rng.integers(0, 2)), int(rng.integers(0, 2))
    zero, mid_zero = zero_point(rng, signed), zero_point(rng, mid)
    fields: dict[str, Any] = {
        "source": source, "src_zero": zero, "src_type": signed, "mid_zero": mid_zero, "mid_type": mid,
    }  # fmt: skip
    if source == 1:
        pixel, row = 4 * (c + 1), 4 * (c + 1) * w + 8
        sums = scene.acc[addresses(4, (h, row // 4), (w, pixel // 4), (c, 1))]
        bias = rng.integers(-(1 << 20), 1 << 20, c, np.int32)
        factor = rng.uniform(1e-6, 3e-5, c).astype(F32)
        address = scene.put(np.concatenate([bias, factor.view(np.int32)]), 4)
        fields |= {"src": 16, "src_row": row, "src_pixel": pixel, "parameters": address}
        return fields, quantised((sums + bias).astype(F32) * factor, mid_zero, mid)
    where, index = scene.image("src", h, w, c)
    fields |= where
    if source == 0:
        return fields, scene.sram[index]
    shift = rng.normal(0, 30, c).astype(F32)
    slopes = rng.normal(0, 1, (2, c)).astype(F32)
    fields["parameters"] = scene.put(np.concatenate([shift[None], slopes]), 4)
    x = numbers(scene.sram[index], signed) - zero
    return fields, quantised(fma(x, np.where(x >= 0, slopes[0], slopes[1]), shift), mid_zero, mid)


def map_binary(scene: Scene, kind: int, first: Array) -> tuple[dict[str, Any], Array]:
    """Random fields of step 3 and the bytes after it; the second operand may be broadcast."""
    rng = scene.rng
    h, w, c = first.shape
    have = [1 if rng.random() < 0.4 else n for n in first.shape]
    where, index = scene.image("operand", have[0], have[1], have[2])
    where["operand_row"] *= have[0] > 1 or h == 1
    where["operand_pixel"] *= have[1] > 1 or w == 1
    a_type, b_type, r_type = rng.integers(0, 2, 3).tolist()
    a_zero, b_zero, r_zero = (zero_point(rng, s) for s in (a_type, b_type, r_type))
    a, b = numbers(first, a_type), numbers(np.broadcast_to(scene.sram[index], first.shape).copy(), b_type)
    fields = where | {
        "binary": kind, "operand_c": int(have[2] == c), "a_type": a_type, "b_type": b_type, "r_type": r_type,
        "a_zero": a_zero, "b_zero": b_zero, "r_zero": r_zero,
    }  # fmt: skip
    if kind == 1:
        r_a, r_b = F32(rng.uniform(0.1, 1.5)), F32(rng.uniform(0.1, 1.5))
        addend = F32(r_zero - fma(r_a, a_zero, r_b * F32(b_zero)))
        t = fma(a, r_a, fma(b, r_b, addend))
        fields |= {"a_factor": r_a, "b_factor": r_b, "addend": addend}
        return fields, quantised(t, 0, r_type)
    factor = F32(rng.uniform(0.0005, 0.02))
    fields["a_factor"] = factor
    return fields, quantised(((a - a_zero) * (b - b_zero)).astype(F32) * factor, r_zero, r_type)


@settings(examples, max_examples=60)
@given(seeds, small, small, channels, st.integers(0, 2), st.integers(0, 2), flags, flags)
def test_map(seed: int, h: int, w: int, c: int, source: int, binary: int, table1: bool, table2: bool) -> None:
    scene = Scene(seed)
    h = min(h, 2) if source == 1 else h
    fields, data = map_source(scene, source, h, w, c)
    for name, on in (("table1", table1), ("table2", table2)):
        if name == "table2" and binary:
            more, data = map_binary(scene, binary, data)
            fields |= more
        if on:
            table = scene.rng.permutation(256).astype(np.uint8)
            fields |= {f"{name}_on": 1, name: scene.put(table)}
            data = table[data]
    where, index = scene.image("dst", h, w, c)
    machine = scene.run("map", h=h, w=w, c=c, **fields, **where)
    check_sram(scene, machine, index, data)


def test_map_of_dense_rows() -> None:
    # taken sixteen bytes by sixteen, if the second operand lies densely too
    for seed in range(16):
        scene = Scene(seed)
        where, index = scene.image("src", 2, 4, 16, dense=True)
        more, data = map_binary(scene, 1 + seed % 2, scene.sram[index])
        to, place = scene.image("dst", 2, 4, 16, dense=True)
        check_sram(scene, scene.run("map", h=2, w=4, c=16, **where, **more, **to), place, data)


@examples
@given(seeds, small, small, channels, signs, signs, st.integers(0, 1), flags)
def test_pool(seed: int, h: int, w: int, c: int, signed: int, out: int, kind: int, count_pad: bool) -> None:
    scene = Scene(seed)
    window = Window(scene, h, w, c, signed)
    dst_zero, factor = zero_point(scene.rng, out), F32(scene.rng.uniform(0.2, 3))
    where, index = scene.image("dst", window.out_h, window.out_w, c)
    machine = scene.run(
        "pool", **window.fields, **where, c=c, kind=kind, count_pad=int(count_pad), factor=factor,
        dst_zero=dst_zero, dst_type=out,
    )  # fmt: skip
    data, inside = window.taps()
    if kind == 0:
        result = (np.where(inside, data, -128 if signed else 0).max(axis=(0, 1)) & 255).astype(np.uint8)
    else:
        taps = window.kh * window.kw if count_pad else np.maximum(inside.sum(axis=(0, 1)), 1)
        total = window.less_zero().sum(axis=(0, 1)).astype(F32)
        result = quantised(total * factor / np.asarray(taps, F32), dst_zero, out)
    check_sram(scene, machine, index, result)


@examples
@given(seeds, small, small, channels, signs, flags)
def test_reduce(seed: int, h: int, w: int, c: int, signed: int, accumulate: bool) -> None:
    scene = Scene(seed)
    where, index = scene.image("src", h, w, c)
    zero = zero_point(scene.rng, signed)
    acc, sums = scene.accumulators(1, c)
    machine = scene.run(
        "reduce", h=h, w=w, c=c, **where, src_zero=zero, src_type=signed, acc=acc["acc"],
        accumulate=int(accumulate),
    )  # fmt: skip
    total = (numbers(scene.sram[index], signed) - zero).sum(axis=(0, 1))
    check_accumulators(scene, machine, sums, total, accumulate)


@examples
@given(seeds, small, small, small, small, channels, signs, signs, flags)
def test_resize(
    seed: int, h: int, w: int, out_h: int, out_w: int, c: int, signed: int, out: int, four: bool
) -> None:
    scene = Scene(seed)
    rng = scene.rng
    where, index = scene.image("src", h, w, c)

    def entries(count: int, size: int) -> Array:
        table = np.zeros((count, 4), np.uint16)
        table[:, :2] = rng.integers(0, size, (count, 2))
        table[:, 2] = rng.integers(0, 2049, count) if four else 2048
        table[:, 3] = 2048 - table[:, 2]
        return table

    rows, columns = entries(out_h, h), entries(out_w, w)
    zero, dst_zero, factor = zero_point(rng, signed), zero_point(rng, out), F32(rng.uniform(0.3, 2) / 2**22)
    to, to_index = scene.image("dst", out_h, out_w, c)
    machine = scene.run(
        "resize", **where, **to, in_h=h, in_w=w, out_h=out_h, out_w=out_w, c=c, taps=int(four),
        rows=scene.put(rows, 8), columns=scene.put(columns, 8), src_zero=zero, src_type=signed,
        factor=factor, dst_zero=dst_zero, dst_type=out,
    )  # fmt: skip
    x = numbers(scene.sram[index], signed) - zero
    total = np.zeros((out_h, out_w, c), np.int64)
    for i in (0, 1):
        for j in (0, 1):
            weight = rows[:, None, 2 + i].astype(np.int64) * columns[None, :, 2 + j]
            total += weight[..., None] * x[rows[:, i]][:, columns[:, j]]
    check_sram(scene, machine, to_index, quantised(total.astype(F32) * factor, dst_zero, out))


@examples
@given(seeds, small, small, channels, signs, signs)
def test_softmax(seed: int, h: int, w: int, c: int, signed: int, out: int) -> None:
    scene = Scene(seed)
    where, index = scene.image("src", h, w, c)
    table = np.floor(np.exp(-np.arange(256) * scene.rng.uniform(0.01, 0.3)) * 2**24).astype(np.uint32)
    dst_zero, factor = -128 if out else 0, F32(256)
    to, to_index = scene.image("dst", h, w, c)
    machine = scene.run(
        "softmax", h=h, w=w, c=c, **where, **to, table=scene.put(table, 4), src_type=signed, factor=factor,
        dst_zero=dst_zero, dst_type=out,
    )  # fmt: skip
    x = numbers(scene.sram[index], signed)
    e = table[x.max(axis=-1, keepdims=True) - x]
    total = e.sum(axis=-1, keepdims=True, dtype=np.uint64)
    check_sram(scene, machine, to_index, quantised(e.astype(F32) / total.astype(F32) * factor, dst_zero, out))


@examples
@given(seeds, small, small, channels, st.integers(1, 6), signs, signs)
def test_lrn(seed: int, h: int, w: int, c: int, size: int, signed: int, out: int) -> None:
    scene = Scene(seed)
    rng = scene.rng
    where, index = scene.image("src", h, w, c)
    zero, dst_zero = zero_point(rng, signed), zero_point(rng, out)
    alpha, bias, factor = F32(rng.uniform(1e-6, 1e-3)), F32(rng.uniform(0.5, 2)), F32(rng.uniform(0.2, 2))
    to, to_index = scene.image("dst", h, w, c)
    machine = scene.run(
        "lrn", h=h, w=w, c=c, **where, **to, size=size, src_zero=zero, src_type=signed, alpha=alpha,
        bias=bias, factor=factor, dst_zero=dst_zero, dst_type=out,
    )  # fmt: skip
    x = numbers(scene.sram[index], signed) - zero
    padded = np.pad(x * x, [(0, 0), (0, 0), ((size - 1) // 2, size // 2)])
    total = sum(padded[..., d : d + c] for d in range(size))
    u = np.asarray(total).astype(F32) * alpha + bias
    root = np.sqrt(u)
    result = quantised(x.astype(F32) * factor / (root * np.sqrt(root)), dst_zero, out)
    check_sram(scene, machine, to_index, result)


@examples
@given(seeds, small, small, channels, signs, signs, signs, st.sampled_from([1e-30, 0.5, 1e6]))
def test_norm(seed: int, h: int, w: int, c: int, signed: int, out: int, centre: int, epsilon: float) -> None:
    scene = Scene(seed)
    rng = scene.rng
    where, index = scene.image("src", h, w, c)
    scene.sram[index[0, 0]] = 7  # a pixel of equal numbers
    zero, dst_zero = zero_point(rng, signed), zero_point(rng, out)
    factors = np.stack([rng.normal(0, 60, c), rng.normal(0, 20, c)]).astype(F32)
    to, to_index = scene.image("dst", h, w, c)
    machine = scene.run(
        "norm", h=h, w=w, c=c, **where, **to, src_zero=zero, src_type=signed, centre=centre, epsilon=F32(epsilon),
        parameters=scene.put(factors, 4), dst_zero=dst_zero, dst_type=out,
    )  # fmt: skip
    v = numbers(scene.sram[index], signed) - zero
    s1 = v.sum(axis=-1, keepdims=True) * centre
    d = (c * (v**2).sum(axis=-1, keepdims=True) - s1**2).astype(F32)
    t = fma((c * v - s1).astype(F32) / np.sqrt(d + F32(epsilon)), factors[0], factors[1])
    check_sram(scene, machine, to_index, quantised(t, dst_zero, out))


@examples
@given(seeds, small, small, channels, st.data(), signs, signs, signs, st.integers(1, 3))
def test_topk(
    seed: int, h: int, w: int, c: int, data: st.DataObject, signed: int, order: int, last: int, written: int
) -> None:
    scene = Scene(seed)
    where, index = scene.image("src", h, w, c)
    scene.sram[index] %= scene.rng.choice([3, 255], (h, w, 1)).astype(np.uint8)  # many that are equal
    k = data.draw(st.integers(1, c))
    values, values_at = scene.image("dst", h, w, k)
    indices, indices_at = scene.image("index", h, w, 4 * k)
    machine = scene.run(
        "topk", h=h, w=w, c=c, **where, **values, **indices, src_type=signed, k=k, order=order, last=last,
        values_on=written & 1, indices_on=written >> 1,
    )  # fmt: skip
    x = numbers(scene.sram[index], signed)
    expected = scene.sram.copy()
    for y, column in np.ndindex(h, w):
        rank = [(n if order else -n, -ch if last else ch) for ch, n in enumerate(x[y, column].tolist())]
        found = sorted(range(c), key=rank.__getitem__)[:k]
        if written & 1:
            expected[values_at[y, column]] = x[y, column, found].astype(np.uint8)
        if written >> 1:
            expected[indices_at[y, column]] = np.array(found, "<i4").view(np.uint8)
    check_sram(scene, machine, slice(None), expected)


@examples
@given(seeds, st.lists(st.integers(1, 6), min_size=4, max_size=4))
def test_copy(seed: int, counts: list[int]) -> None:
    scene = Scene(seed)
    size = int(np.prod(counts))
    fields = {f"n{i}": n for i, n in enumerate(counts)}
    index = {}
    for side in ("src", "dst"):
        strides, step = [0] * 4, 1
        for i in scene.rng.permutation(4):  # any order of the loops, some of them backwards
            strides[i], step = step, step * counts[i]
        address = scene.take(size)
        for i in np.flatnonzero(scene.rng.random(4) < 0.3):
            address, strides[i] = address + (counts[i] - 1) * strides[i], -strides[i]
        fields |= {side: address} | {f"{side}_s{i}": s for i, s in enumerate(strides)}
        index[side] = addresses(address, *zip(counts, strides, strict=True))
    machine = scene.run("copy", **fields)
    check_sram(scene, machine, index["dst"], scene.sram[index["src"]])


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
