"""The reference machine's results, against formulas in exact fractions, element by element."""

import random
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from ommatid.simulator.reference.rounding import fma, quantise
from tests.simulator.exact import WINDOWS, Bench, f32, num, quantised, root, rounded, taps, tiles


def test_fma_rounds_once():
    draw = random.Random(1)
    bits = [draw.getrandbits(32) for _ in range(30000)]
    values = np.array(bits, np.uint32).view(np.float32)
    values = values[np.isfinite(values) & (np.abs(values) < 1e18)]
    a, b, c = values[: len(values) // 3 * 3].reshape(3, -1)
    near = (a.astype(np.float64) * b).astype(np.float32)
    near[::2] = -near[::2] * np.float32(1 + 2**-20)
    halves = [np.float32(1 + 2**-12), np.float32(1 + 2**-12), np.float32(2**-70)]  # a tie, but for the addend
    tried = [*zip(a, b, c, strict=True), *zip(a, b, near, strict=True), halves]
    tried += [(np.float32(3e-30), np.float32(7e-20), np.float32(1.4e-45))]
    x, y, z = (np.array(column, np.float32) for column in zip(*tried, strict=True))
    got = fma(x, y, z)
    for one, p, q, r in zip(got, x, y, z, strict=True):
        exact = rounded(Fraction(float(p)) * Fraction(float(q)) + Fraction(float(r)))
        assert Fraction(float(one)) == exact, (p, q, r)


def test_quantise_clamps_then_rounds_halves_to_even():
    t = np.array([-1e9, -0.5, 0.5, 1.5, 2.5, 126.5, 127.5, 1e9], np.float32)
    assert quantise(t, 0, 1).view(np.int8).tolist() == [-128, 0, 0, 2, 2, 126, 127, 127]
    assert quantise(t, 3, 0).tolist() == [0, 3, 3, 5, 5, 129, 131, 255]


def test_load_and_store_move_runs_over_three_loops():
    bench = Bench(2)
    loops = {"n1": 2, "n2": 3, "n3": 2, "src_s1": 7, "src_s2": -40, "src_s3": 1000, "dst_s1": 100}
    loops |= {"dst_s2": 9, "dst_s3": -300}
    moved = [
        (500 + a * 7 - b * 40 + d * 1000 + r, 900 + a * 100 + b * 9 - d * 300 + r)
        for d in range(2) for b in range(3) for a in range(2) for r in range(5)
    ]  # fmt: skip
    sram, _, _ = bench.run("load", src=500, dst=900, run=5, **loops)
    bench.check(sram, {to: bench.before.dram[at] for at, to in moved})
    _, _, dram = bench.run("store", src=500, dst=900, run=5, **loops)
    expected = bench.before.dram.copy()
    for at, to in moved:
        expected[to] = bench.before.sram[0][at]
    np.testing.assert_array_equal(dram, expected)
    sram, _, _ = bench.run(
        "fill", dst=900, run=5, value=77, **{k: v for k, v in loops.items() if "src" not in k}
    )
    bench.check(sram, {to: 77 for _, to in moved})


def test_copy_moves_bytes_over_four_loops():
    bench = Bench(3)
    counts, src, dst = (2, 3, 4, 2), (5, -20, 100, 1000), (1, 2, 6, 24)
    fields = {f"n{n}": v for n, v in enumerate(counts)}
    fields |= {f"src_s{n}": v for n, v in enumerate(src)} | {f"dst_s{n}": v for n, v in enumerate(dst)}
    sram, _, _ = bench.run("copy", src=500, dst=9000, **fields)
    expected = {}
    for index in np.ndindex(*counts):
        at = 500 + sum(i * s for i, s in zip(index, src, strict=True))
        expected[9000 + sum(i * s for i, s in zip(index, dst, strict=True))] = bench.before.sram[0][at]
    assert len(expected) == 48
    bench.check(sram, expected)


@pytest.mark.parametrize("target", ["ommatid-256", "ommatid-1k"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(("row_mode", "accumulate", "kind"), [(0, 0, 0), (0, 1, 1), (1, 1, 0)])
@pytest.mark.parametrize(("weights_zero", "weights_type"), [(0, 1), (-77, 1), (200, 0)])
def test_conv(
    target: str, window: dict[str, int], row_mode: int, accumulate: int, kind: int, weights_zero: int, weights_type: int
):  # fmt: skip
    bench = Bench(4, target)
    cin, cout, zero = 5, 19, 3 - 4 * kind
    pixel = cin if row_mode else 8
    row = 70
    low = -128 * weights_type
    weights = bench.rng.integers(low, low + 256, (cout, window["kh"], window["kw"], cin))
    bench.put(4096, tiles(weights, row_mode, weights_zero, bench.target), "u1")
    _, acc, _ = bench.run(
        "conv", src=1000, src_row=row, src_pixel=pixel, **window, src_zero=zero, cin=cin, cout=cout, src_type=kind,
        row_mode=row_mode, accumulate=accumulate, acc_bytes=4, weights=4096, weights_zero=weights_zero,
        weights_type=weights_type, acc=8, acc_pixel=100,
    )  # fmt: skip
    expected = bench.before.acc[0].astype(np.int64)
    for y in range(window["out_h"]):
        for x in range(window["out_w"]):
            for o in range(cout):
                total = 0
                for i, j, iy, ix in taps(window, y, x):
                    at = 1000 + iy * row + ix * pixel
                    data = bench.before.sram[0][at : at + cin]
                    total += sum(
                        (num(data[ch], kind) - zero) * (int(weights[o, i, j, ch]) - weights_zero)
                        for ch in range(cin)
                    )
                where = 2 + (y * window["out_w"] + x) * 25 + o
                expected[where] = total + (expected[where] if accumulate else 0)
    np.testing.assert_array_equal(acc, expected)


def test_accumulators_wrap():
    bench = Bench(5)
    bench.before.acc[0][0] = 2**31 - 1
    bench.put(0, [255], "u1")
    _, acc, _ = bench.run("reduce", src=0, h=1, w=1, c=1, acc=0, accumulate=1, src_zero=254)
    assert acc[0] == -(2**31)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("accumulate", [0, 1])
def test_dwconv(window: dict[str, int], accumulate: int):
    bench = Bench(6)
    c = 21
    _, acc, _ = bench.run(
        "dwconv", src=1000, src_row=400, src_pixel=30, **window, c=c, weights=5003, weights_tap=23, acc=4,
        acc_pixel=88, accumulate=accumulate, acc_bytes=4, src_zero=-7, src_type=1,
    )  # fmt: skip
    sram = bench.before.sram[0]
    expected = bench.before.acc[0].astype(np.int64)
    for y in range(window["out_h"]):
        for x in range(window["out_w"]):
            for ch in range(c):
                total = 0
                for i, j, iy, ix in taps(window, y, x):
                    weight = num(sram[5003 + (i * window["kw"] + j) * 23 + ch], 1)
                    total += (num(sram[1000 + iy * 400 + ix * 30 + ch], 1) + 7) * weight
                where = 1 + (y * window["out_w"] + x) * 22 + ch
                expected[where] = total + (expected[where] if accumulate else 0)
    np.testing.assert_array_equal(acc, expected)


H, W, C = 3, 2, 5
IMAGES = {"src": 1000, "src_row": 40, "src_pixel": 10, "dst": 20000, "dst_row": 33, "dst_pixel": 11}


def elements(bench: Bench, value: Callable[[int, int, int], int]) -> dict[int, int]:
    """The bytes of the output by address: ``value`` of each [y, x, ch]."""
    return {
        20000 + y * 33 + x * 11 + ch: value(y, x, ch) for y in range(H) for x in range(W) for ch in range(C)
    }


def src(bench: Bench, y: int, x: int, ch: int, kind: int = 0) -> int:
    return num(bench.before.sram[0][1000 + y * 40 + x * 10 + ch], kind)


@pytest.mark.parametrize(("zero", "kind"), [(7, 0), (-100, 1)])
def test_map_requantises_accumulators(zero: int, kind: int):
    bench = Bench(7)
    bias = bench.rng.integers(-1000, 1000, C)
    factors = bench.rng.uniform(1e-5, 3e-4, C).astype(np.float32)
    bench.put(64, bias, "i4")
    bench.put(64 + 4 * C, factors, "f4")
    sram, _, _ = bench.run(
        "map", h=H, w=W, c=C, source=1, mid_zero=zero, mid_type=kind, parameters=64,
        **(IMAGES | {"src": 40, "src_row": 400, "src_pixel": 48}),
    )  # fmt: skip

    def value(y: int, x: int, ch: int) -> int:
        total = int(bench.before.acc[0][10 + y * 100 + x * 12 + ch]) + int(bias[ch])
        return quantised(rounded(rounded(Fraction(total)) * f32(factors[ch])), zero, kind)

    bench.check(sram, elements(bench, value))


def test_map_scales_and_looks_up_both_tables():
    bench = Bench(8)
    shift, positive, negative = bench.rng.uniform(-2, 2, (3, C)).astype(np.float32)
    bench.put(64, [shift, positive, negative], "f4")
    sram, _, _ = bench.run(
        "map", h=H, w=W, c=C, source=2, src_zero=-3, src_type=1, mid_zero=100, mid_type=0, parameters=64,
        table1_on=1, table1=301, table2_on=1, table2=601, **IMAGES,
    )  # fmt: skip
    old = bench.before.sram[0]

    def value(y: int, x: int, ch: int) -> int:
        v = src(bench, y, x, ch, 1) + 3
        scaled = rounded(v * f32((positive if v >= 0 else negative)[ch]) + f32(shift[ch]))
        return int(old[601 + int(old[301 + quantised(scaled, 100, 0)])])

    bench.check(sram, elements(bench, value))


@pytest.mark.parametrize("operand_c", [0, 1])
@pytest.mark.parametrize("binary", [1, 2])
def test_map_adds_and_multiplies(binary: int, operand_c: int):
    bench = Bench(9)
    a_factor, b_factor, addend = (
        f32(v) for v in ((0.7310001, 0.4123, 3.3) if binary == 1 else (0.011, 0, 0))
    )
    sram, _, _ = bench.run(
        "map", h=H, w=W, c=C, binary=binary, operand=5000, operand_row=0, operand_pixel=20, operand_c=operand_c,
        a_type=1, b_type=0, r_type=1, a_zero=5, b_zero=130, r_zero=-9, a_factor=float(a_factor),
        b_factor=float(b_factor), addend=float(addend), **IMAGES,
    )  # fmt: skip

    def value(y: int, x: int, ch: int) -> int:
        a = src(bench, y, x, ch, 1)
        o = int(bench.before.sram[0][5000 + x * 20 + (ch if operand_c else 0)])
        if binary == 1:
            return quantised(rounded(a * a_factor + rounded(o * b_factor + addend)), 0, 1)
        return quantised(rounded(rounded(Fraction((a - 5) * (o - 130))) * a_factor), -9, 1)

    bench.check(sram, elements(bench, value))


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(("kind", "count_pad", "src_type"), [(0, 0, 0), (0, 0, 1), (1, 0, 1), (1, 1, 0)])
def test_pool(window: dict[str, int], kind: int, count_pad: int, src_type: int):
    bench = Bench(10)
    fields = IMAGES | {"src_row": 60, "dst_row": 77, "c": C, "kind": kind, "count_pad": count_pad}
    fields |= {"src_type": src_type, "src_zero": 11, "dst_zero": -5, "dst_type": 1, "factor": 0.77}
    sram, _, _ = bench.run("pool", **window, **fields)
    expected = {}
    for y in range(window["out_h"]):
        for x in range(window["out_w"]):
            inside = taps(window, y, x)
            for ch in range(C):
                data = [
                    num(bench.before.sram[0][1000 + iy * 60 + ix * 10 + ch], src_type)
                    for _, _, iy, ix in inside
                ]
                if kind == 0:
                    byte = max(data, default=-128 if src_type else 0)
                else:
                    n = window["kh"] * window["kw"] if count_pad else max(1, len(inside))
                    total = rounded(Fraction(sum(v - 11 for v in data)))
                    byte = quantised(rounded(rounded(total * f32(0.77)) / n), -5, 1)
                expected[20000 + y * 77 + x * 11 + ch] = byte
    bench.check(sram, expected)


@pytest.mark.parametrize("accumulate", [0, 1])
def test_reduce(accumulate: int):
    bench = Bench(11)
    fields = {k: v for k, v in IMAGES.items() if "dst" not in k}
    _, acc, _ = bench.run("reduce", h=H, w=W, c=C, acc=20, accumulate=accumulate, src_zero=200, **fields)
    expected = bench.before.acc[0].astype(np.int64)
    for ch in range(C):
        total = sum(src(bench, y, x, ch) - 200 for y in range(H) for x in range(W))
        expected[5 + ch] = total + (expected[5 + ch] if accumulate else 0)
    np.testing.assert_array_equal(acc, expected)


@pytest.mark.parametrize("four", [0, 1])
def test_resize(four: int):
    bench = Bench(12)
    rows = [(0, 1, 2048, 0), (0, 1, 1024, 1024), (1, 2, 5, 2043)]
    columns = [(2, 3, 700, 1348), (0, 9000, 2048, 0)]
    if not four:
        rows, columns = ([(a, b, 2048, 0) for a, b, _, _ in table] for table in (rows, columns))
    bench.put(64, rows, "u2")
    bench.put(128, columns, "u2")
    factor = f32(0.9 / 2**22)
    sram, _, _ = bench.run(
        "resize", out_h=H, out_w=W, c=C, in_h=3, in_w=4, rows=64, columns=128, taps=four, src_zero=3, src_type=0,
        factor=float(factor), dst_zero=4, dst_type=0, **IMAGES,
    )  # fmt: skip

    def value(y: int, x: int, ch: int) -> int:
        total = 0
        for i in range(2):
            for j in range(2):
                if weight := rows[y][2 + i] * columns[x][2 + j]:
                    total += (src(bench, rows[y][i], columns[x][j], ch) - 3) * weight
        return quantised(rounded(rounded(Fraction(total)) * factor), 4, 0)

    bench.check(sram, elements(bench, value))


def test_softmax():
    bench = Bench(13)
    table = [int(4e9 * 0.97**n) for n in range(256)]
    bench.put(64, table, "u4")
    sram, _, _ = bench.run(
        "softmax", h=H, w=W, c=C, table=64, factor=256.0, dst_zero=-128, dst_type=1, src_type=1, **IMAGES
    )

    def value(y: int, x: int, ch: int) -> int:
        v = [src(bench, y, x, d, 1) for d in range(C)]
        e = [table[max(v) - each] for each in v]
        share = rounded(rounded(Fraction(e[ch])) / rounded(Fraction(sum(e))))
        return quantised(rounded(share * 256), -128, 1)

    bench.check(sram, elements(bench, value))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_lrn(size: int):
    bench = Bench(14)
    alpha, bias, factor = f32(1.3e-4), f32(1.0), f32(2.1)
    sram, _, _ = bench.run(
        "lrn", h=H, w=W, c=C, size=size, src_zero=120, src_type=0, alpha=float(alpha), bias=float(bias),
        factor=float(factor), dst_zero=1, dst_type=1, **IMAGES,
    )  # fmt: skip

    def value(y: int, x: int, ch: int) -> int:
        v = [src(bench, y, x, d) - 120 for d in range(C)]
        near = v[max(0, ch - (size - 1) // 2) : min(C - 1, ch + size // 2) + 1]
        u = rounded(rounded(alpha * rounded(Fraction(sum(n * n for n in near)))) + bias)
        g = root(u)
        return quantised(rounded(rounded(v[ch] * factor) / rounded(g * root(g))), 1, 1)

    bench.check(sram, elements(bench, value))


def normed(
    v: list[int], centre: int, epsilon: Fraction, multiplier: np.ndarray, shift: np.ndarray, zero: int, kind: int
) -> list[int]:  # fmt: skip
    """The bytes of a pixel whose channels less the zero point are ``v``."""
    c = len(v)
    s1 = sum(v) if centre else 0
    g = root(rounded(rounded(Fraction(c * sum(n * n for n in v) - s1 * s1)) + epsilon))
    share = [rounded(rounded(Fraction(c * n - s1)) / g) for n in v]
    return [
        quantised(rounded(s * f32(m) + f32(b)), zero, kind)
        for s, m, b in zip(share, multiplier, shift, strict=True)
    ]


@pytest.mark.parametrize("centre", [0, 1])
@pytest.mark.parametrize(
    ("zero", "kind", "epsilon"), [(120, 0, 1e-30), (-128, 1, 0.7), (3, 1, 3e5), (255, 0, 1e-45)]
)
def test_norm(centre: int, zero: int, kind: int, epsilon: float):
    bench = Bench(15)
    multiplier, shift = bench.rng.normal(0, 40, (2, C)).astype(np.float32)
    bench.put(64, [multiplier, shift], "f4")
    bench.put(1000, [zero % 256] * C, "u1")  # a pixel of nothing but zeros
    bench.put(1010, [(zero + 1) % 256] * C, "u1")  # and one without variance
    sram, _, _ = bench.run(
        "norm", h=H, w=W, c=C, parameters=64, centre=centre, epsilon=epsilon, src_zero=zero, src_type=kind, dst_zero=-9,
        dst_type=1, **IMAGES,
    )  # fmt: skip

    def value(y: int, x: int, ch: int) -> int:
        v = [src(bench, y, x, d, kind) - zero for d in range(C)]
        return normed(v, centre, f32(epsilon), multiplier, shift, -9, 1)[ch]

    bench.check(sram, elements(bench, value))


@pytest.mark.parametrize("centre", [0, 1])
def test_norm_of_so_many_channels_that_the_variance_is_rounded(centre: int):
    bench, c = Bench(16), 65535
    multiplier = np.float32(60) * bench.rng.choice([1, -1], c).astype(np.float32)
    shift = bench.rng.normal(0, 20, c).astype(np.float32)
    bench.put(1 << 18, [multiplier, shift], "f4")
    sram, _, _ = bench.run(
        "norm", h=1, w=1, c=c, src=1, src_zero=255, parameters=1 << 18, centre=centre, epsilon=1.0, dst=1 << 17,
        dst_zero=128,
    )  # fmt: skip
    v = [int(byte) - 255 for byte in bench.before.sram[0][1 : 1 + c]]
    spread = c * sum(n * n for n in v) - sum(v) ** 2 * centre
    assert rounded(Fraction(spread)) != spread
    expected = normed(v, centre, Fraction(1), multiplier, shift, 128, 0)
    bench.check(sram, {(1 << 17) + ch: byte for ch, byte in enumerate(expected)})


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize(
    ("kind", "k", "values_on", "indices_on"), [(0, 1, 1, 0), (1, 3, 0, 1), (1, 4, 1, 1), (0, 5, 1, 1)]
)
def test_topk(order: int, last: int, kind: int, k: int, values_on: int, indices_on: int):
    bench = Bench(17)
    for pixel in range(1000, 1000 + 40 * H, 10):  # many equal ones
        bench.put(pixel, bench.rng.choice([0, 1, 127, 128, 255], 10), "u1")
    sram, _, _ = bench.run(
        "topk", h=H, w=W, c=C, k=k, src_type=kind, order=order, last=last, values_on=values_on, indices_on=indices_on,
        index=30001, index_row=70, index_pixel=-23, **IMAGES,
    )  # fmt: skip
    expected: dict[int, int] = {}
    for y, x in np.ndindex(H, W):
        left = list(range(C))
        for j in range(k):  # the k passes of the document
            values = [src(bench, y, x, ch, kind) for ch in left]
            equal = [ch for ch, v in zip(left, values, strict=True) if v == (min if order else max)(values)]
            ch = max(equal) if last else min(equal)
            left.remove(ch)
            if values_on:
                expected[20000 + y * 33 + x * 11 + j] = src(bench, y, x, ch)
            if indices_on:
                at = 30001 + y * 70 - x * 23 + 4 * j
                expected |= dict(zip(range(at, at + 4), (ch, 0, 0, 0), strict=True))
    bench.check(sram, expected)


def test_topk_numbers_have_four_bytes():
    bench = Bench(18)
    bench.put(1000, np.zeros(40000), "u1")
    bench.put(1000 + 39999, [200, 7], "u1")
    sram, _, _ = bench.run(
        "topk", h=1, w=1, c=40000, k=2, last=1, src=1000, index=60003, indices_on=1, dst=0, values_on=1
    )
    bench.check(sram, {0: 200, 1: 0, **dict(enumerate([0x3F, 0x9C, 0, 0, 0x3E, 0x9C, 0, 0], 60003))})
