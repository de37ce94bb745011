"""The reference machine's results with elements of 16 bits, against formulas in exact fractions, one by one."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from tests.simulator.exact import (
    LIMITS,
    SIZE,
    WINDOWS,
    Bench,
    f32,
    quantised,
    root,
    rounded,
    stored,
    taps,
    tiles,
)

U8, I8, I16 = range(3)
H, W, C = 3, 2, 5
IMAGES = {"src": 1000, "src_row": 40, "src_pixel": 12, "dst": 20000, "dst_row": 40, "dst_pixel": 14}
ZERO = (7, -100, 0)  # by type


def src(bench: Bench, kind: int, y: int, x: int, ch: int) -> int:
    """An element of the input."""
    return bench.number(1000 + y * 40 + x * 12 + SIZE[kind] * ch, kind)


def elements(kind: int, value: Callable[[int, int, int], int]) -> dict[int, int]:
    """The bytes of the output by address; ``value`` gives the bits of [y, x, ch]."""
    expected: dict[int, int] = {}
    for y, x, ch in np.ndindex(H, W, C):
        expected |= stored(20000 + y * 40 + x * 14 + SIZE[kind] * ch, value(y, x, ch), SIZE[kind])
    return expected


def signed(value: int, bits: int) -> int:
    """The low bits, two's complement."""
    return (value + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)


def long_accumulators(acc: np.ndarray) -> list[int]:
    """Accumulators of 8 bytes: all of their 64 bits."""
    return acc.view("<i8").tolist()


@pytest.mark.parametrize("target", ["ommatid-256", "ommatid-1k"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(
    ("row_mode", "accumulate", "weights_type", "zero"),
    [(0, 0, I16, 0), (0, 1, I8, -3), (1, 1, I16, 0), (1, 0, U8, 200)],
)
def test_conv(
    target: str, window: dict[str, int], row_mode: int, accumulate: int, weights_type: int, zero: int
):
    bench = Bench(4, target)
    cin, cout = 5, 11
    low, high = LIMITS[weights_type]
    weights = bench.rng.integers(low, high + 1, (cout, window["kh"], window["kw"], cin))
    bench.put(4096, tiles(weights, row_mode, zero, bench.target), ("u1", "i1", "<i2")[weights_type])
    pixel = 10 if row_mode and window["kw"] > 1 else 14  # a row of one tap need not be dense
    _, acc, _ = bench.run(
        "conv", src=1000, src_row=90, src_pixel=pixel, **window, cin=cin, cout=cout, src_type=I16, row_mode=row_mode,
        accumulate=accumulate, acc_bytes=8, weights=4096, weights_zero=zero, weights_type=weights_type, acc=16,
        acc_pixel=104,
    )  # fmt: skip
    expected = long_accumulators(bench.before.acc[0])
    for y, x, o in np.ndindex(window["out_h"], window["out_w"], cout):
        where = 2 + (y * window["out_w"] + x) * 13 + o
        total = expected[where] if accumulate else 0
        for i, j, iy, ix in taps(window, y, x):
            total += sum(
                bench.number(1000 + iy * 90 + ix * pixel + 2 * ch, I16) * (int(weights[o, i, j, ch]) - zero)
                for ch in range(cin)
            )
        expected[where] = signed(total, 48)
    assert long_accumulators(acc) == expected


@pytest.mark.parametrize("accumulate", [0, 1])
def test_dwconv(accumulate: int):
    bench, window, c = Bench(6), WINDOWS[0], 21
    _, acc, _ = bench.run(
        "dwconv", src=1000, src_row=400, src_pixel=44, **window, c=c, weights=5003, weights_tap=23, acc=8, acc_pixel=176,
        accumulate=accumulate, acc_bytes=8, src_type=I16,
    )  # fmt: skip
    expected = long_accumulators(bench.before.acc[0])
    for y, x, ch in np.ndindex(window["out_h"], window["out_w"], c):
        where = 1 + (y * window["out_w"] + x) * 22 + ch
        total = expected[where] if accumulate else 0
        for i, j, iy, ix in taps(window, y, x):
            weight = bench.number(5003 + (i * window["kw"] + j) * 23 + ch, I8)
            total += bench.number(1000 + iy * 400 + ix * 44 + 2 * ch, I16) * weight
        expected[where] = signed(total, 48)
    assert long_accumulators(acc) == expected


def test_accumulators_wrap_at_48_bits_and_those_of_reduce_at_32():
    bench = Bench(5)
    bench.before.acc[0].view("<i8")[:2] = 2**47 - 1, 2**47 + (99 << 48)  # of the second the low 48 bits count
    bench.put(0, [1, 1], "<i2")
    bench.put(64, [1, 1], "i1")
    _, acc, _ = bench.run(
        "dwconv", src=0, src_pixel=4, in_h=1, in_w=1, c=2, weights=64, acc=0, acc_pixel=16, accumulate=1, acc_bytes=8,
        src_type=I16,
    )  # fmt: skip
    assert long_accumulators(acc)[:2] == [-(2**47), -(2**47) + 1]
    bench.before.acc[0][1] = 2**31 - 1
    _, acc, _ = bench.run("reduce", src=0, h=1, w=1, c=1, acc=4, accumulate=1, src_type=I16)
    assert acc[1] == -(2**31)


@pytest.mark.parametrize("kind", [U8, I8, I16])
def test_map_requantises_48_bits(kind: int):
    bench = Bench(7)
    bias = bench.rng.integers(-(2**31), 2**31, C)
    factors = bench.rng.uniform(2e-11, 3e-10, C).astype(np.float32) * (1 if kind == I16 else 0.01)
    bench.put(64, bias, "<i4")
    bench.put(64 + 4 * C, factors, "<f4")
    held = bench.before.acc[0].view("<i8")
    held[:] = bench.rng.integers(-(2**63), 2**63, len(held))  # 16 bits more than are read
    held[5:7] = 2**47 - 1, -(2**47)  # with a bias they wrap
    sram, _, _ = bench.run(
        "map", h=H, w=W, c=C, source=1, mid_zero=ZERO[kind], mid_type=kind, parameters=64, acc_bytes=8,
        **(IMAGES | {"src": 40, "src_row": 400, "src_pixel": 48}),
    )  # fmt: skip

    def value(y: int, x: int, ch: int) -> int:
        total = signed(int(held[5 + y * 50 + x * 6 + ch]) + int(bias[ch]), 48)
        return quantised(rounded(rounded(Fraction(total)) * f32(factors[ch])), ZERO[kind], kind)

    assert len({value(y, x, ch) for y, x, ch in np.ndindex(H, W, C)}) > 10
    bench.check(sram, elements(kind, value))


@pytest.mark.parametrize(("source", "result"), [(U8, I16), (I8, I16), (I16, I16), (I16, U8), (I16, I8)])
def test_map_scales_between_types(source: int, result: int):
    bench = Bench(8)
    size = 256.0 ** (SIZE[result] - SIZE[source])
    shift = bench.rng.uniform(-9, 9, C).astype(np.float32)
    positive, negative = (bench.rng.uniform(-2, 2, (2, C)) * size).astype(np.float32)
    bench.put(64, [shift, positive, negative], "<f4")
    sram, _, _ = bench.run(
        "map", h=H, w=W, c=C, source=2, src_zero=ZERO[source], src_type=source, mid_zero=ZERO[result], mid_type=result,
        parameters=64, **IMAGES,
    )  # fmt: skip

    def value(y: int, x: int, ch: int) -> int:
        v = src(bench, source, y, x, ch) - ZERO[source]
        scaled = rounded(v * f32((positive if v >= 0 else negative)[ch]) + f32(shift[ch]))
        return quantised(scaled, ZERO[result], result)

    bench.check(sram, elements(result, value))


def interpolated(bench: Bench, at: int, q: int) -> int:
    """The i16 table's value."""
    i, f = divmod(q + 32768, 128)
    low, high = (bench.number(at + 2 * n, I16) for n in (i, i + 1))
    return low + ((high - low) * f + 64) // 128


def test_map_looks_up_i16_between_the_entries_of_a_table():
    bench = Bench(9)
    bench.put(3000, [-32768, 32767, -32768], "<i2")  # the widest steps, up and down
    bench.put(3000 + 2 * 511, [32767, -32768], "<i2")
    bench.put(1000, [-32768, -32767, -32641, -32640, -32639], "<i2")
    bench.put(1012, [-32513, 32640, 32641, 32767, 0], "<i2")
    sram, _, _ = bench.run("map", h=H, w=W, c=C, src_type=I16, table1_on=3, table1=3000, **IMAGES)
    bench.check(sram, elements(I16, lambda *at: interpolated(bench, 3000, src(bench, I16, *at))))


def test_map_widens_by_a_table_and_goes_on_with_16_bits():
    bench = Bench(10)
    sram, _, _ = bench.run(
        "map", h=H, w=W, c=C, src_type=I8, table1_on=2, table1=3000, table2_on=3, table2=4000, **IMAGES
    )

    def value(y: int, x: int, ch: int) -> int:
        wide = bench.number(3000 + 2 * src(bench, U8, y, x, ch), I16)  # the bits of a byte, whatever its type
        return interpolated(bench, 4000, wide)

    bench.check(sram, elements(I16, value))


@pytest.mark.parametrize("operand_c", [0, 1])
@pytest.mark.parametrize(
    ("a_type", "b_type", "r_type"),
    [(I16, U8, I16), (I16, I8, I8), (U8, I16, I16), (I16, I16, U8), (I8, I8, I16), (U8, I16, I8)],
)
@pytest.mark.parametrize("binary", [1, 2])
def test_map_adds_and_multiplies_mixed_types(
    binary: int, a_type: int, b_type: int, r_type: int, operand_c: int
):
    bench = Bench(11)
    span = [256.0 ** SIZE[kind] for kind in (a_type, b_type, r_type)]
    factors = (0.7 * span[2] / span[0], 0.4 * span[2] / span[1], 3.3)
    if binary == 2:
        factors = (4 * span[2] / span[0] / span[1], 0, 0)
    a_factor, b_factor, addend = (f32(v) for v in factors)
    sram, _, _ = bench.run(
        "map", h=H, w=W, c=C, src_type=a_type, binary=binary, operand=5000, operand_row=0, operand_pixel=20,
        operand_c=operand_c, a_type=a_type, b_type=b_type, r_type=r_type, a_zero=ZERO[a_type], b_zero=ZERO[b_type],
        r_zero=ZERO[r_type], a_factor=float(a_factor), b_factor=float(b_factor), addend=float(addend), **IMAGES,
    )  # fmt: skip

    def value(y: int, x: int, ch: int) -> int:
        a = src(bench, a_type, y, x, ch)
        o = bench.number(5000 + x * 20 + SIZE[b_type] * ch * operand_c, b_type)
        if binary == 1:
            return quantised(rounded(a * a_factor + rounded(o * b_factor + addend)), 0, r_type)
        product = rounded(Fraction((a - ZERO[a_type]) * (o - ZERO[b_type])))
        return quantised(rounded(product * a_factor), ZERO[r_type], r_type)

    bench.check(sram, elements(r_type, value))


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(
    ("average", "source", "result"), [(0, I16, I16), (1, I16, I16), (1, I16, U8), (1, I8, I16)]
)
def test_pool(window: dict[str, int], average: int, source: int, result: int):
    bench = Bench(12)
    fields = IMAGES | {
        "src_row": 80,
        "dst_row": 84,
        "c": C,
        "kind": average,
        "src_type": source,
        "dst_type": result,
    }
    factor = 0.77 * 256.0 ** (SIZE[result] - SIZE[source])
    sram, _, _ = bench.run(
        "pool", **window, **fields, src_zero=ZERO[source], dst_zero=ZERO[result], factor=factor
    )
    expected: dict[int, int] = {}
    for y, x, ch in np.ndindex(window["out_h"], window["out_w"], C):
        inside = taps(window, y, x)
        data = [bench.number(1000 + iy * 80 + ix * 12 + SIZE[source] * ch, source) for _, _, iy, ix in inside]
        if average:
            total = rounded(Fraction(sum(v - ZERO[source] for v in data)))
            mean = rounded(rounded(total * f32(factor)) / max(1, len(inside)))
            bits = quantised(mean, ZERO[result], result)
        else:
            bits = max(data, default=-32768)
        expected |= stored(20000 + y * 84 + x * 14 + SIZE[result] * ch, bits, SIZE[result])
    bench.check(sram, expected)


def test_reduce():
    bench = Bench(13)
    image = {k: v for k, v in IMAGES.items() if "dst" not in k}
    _, acc, _ = bench.run("reduce", h=H, w=W, c=C, acc=20, accumulate=1, src_type=I16, **image)
    expected = bench.before.acc[0].astype(np.int64)
    for ch in range(C):
        expected[5 + ch] += sum(src(bench, I16, y, x, ch) for y in range(H) for x in range(W))
    np.testing.assert_array_equal(acc, expected)


@pytest.mark.parametrize(("source", "result"), [(I16, I16), (I16, U8), (U8, I16)])
def test_resize(source: int, result: int):
    bench = Bench(14)
    rows = [(0, 1, 2048, 0), (0, 1, 1024, 1024), (1, 2, 5, 2043)]
    columns = [(2, 3, 700, 1348), (0, 9000, 2048, 0)]
    bench.put(64, rows, "<u2")
    bench.put(128, columns, "<u2")
    factor = f32(0.9 / 2**22 * 256.0 ** (SIZE[result] - SIZE[source]))
    sram, _, _ = bench.run(
        "resize", out_h=H, out_w=W, c=C, in_h=3, in_w=4, rows=64, columns=128, taps=1, src_zero=ZERO[source],
        src_type=source, factor=float(factor), dst_zero=ZERO[result], dst_type=result, **IMAGES,
    )  # fmt: skip

    def value(y: int, x: int, ch: int) -> int:
        total = 0
        for i, j in np.ndindex(2, 2):
            if weight := rows[y][2 + i] * columns[x][2 + j]:
                total += (src(bench, source, rows[y][i], columns[x][j], ch) - ZERO[source]) * weight
        return quantised(rounded(rounded(Fraction(total)) * factor), ZERO[result], result)

    bench.check(sram, elements(result, value))


@pytest.mark.parametrize(("source", "result"), [(I16, I16), (I16, U8), (I8, I16)])
def test_softmax(source: int, result: int):
    bench = Bench(15)
    if source == I16:
        coarse, fine = ([int((2**32 - 1) * 0.9999 ** (n * step)) for n in range(256)] for step in (256, 1))
        bench.put(64, coarse + fine, "<u4")
    else:
        coarse = [int(4e9 * 0.97**n) for n in range(256)]
        bench.put(64, coarse, "<u4")
    scale = 256.0 if result == U8 else 32768.0
    sram, _, _ = bench.run(
        "softmax",
        h=H,
        w=W,
        c=C,
        table=64,
        factor=scale,
        dst_zero=0,
        dst_type=result,
        src_type=source,
        **IMAGES,
    )

    def value(y: int, x: int, ch: int) -> int:
        v = [src(bench, source, y, x, d) for d in range(C)]
        steps = [max(v) - each for each in v]
        e = [coarse[d >> 8] * fine[d & 255] >> 32 if source == I16 else coarse[d] for d in steps]
        share = rounded(rounded(Fraction(e[ch])) / rounded(Fraction(sum(e))))
        return quantised(rounded(share * f32(scale)), 0, result)

    bench.check(sram, elements(result, value))


@pytest.mark.parametrize(("source", "result"), [(I16, I16), (I16, I8), (U8, I16)])
def test_lrn(source: int, result: int):
    bench = Bench(16)
    size = 3
    alpha = f32(1.3e-4 / 65536.0 ** (SIZE[source] - 1))
    bias, factor = f32(1.0), f32(2.1 * 256.0 ** (SIZE[result] - SIZE[source]))
    sram, _, _ = bench.run(
        "lrn", h=H, w=W, c=C, size=size, src_zero=ZERO[source], src_type=source, alpha=float(alpha), bias=float(bias),
        factor=float(factor), dst_zero=ZERO[result], dst_type=result, **IMAGES,
    )  # fmt: skip

    def value(y: int, x: int, ch: int) -> int:
        v = [src(bench, source, y, x, d) - ZERO[source] for d in range(C)]
        near = v[max(0, ch - 1) : min(C - 1, ch + 1) + 1]
        u = rounded(rounded(alpha * rounded(Fraction(sum(n * n for n in near)))) + bias)
        g = root(u)
        scaled = rounded(rounded(v[ch] * factor) / rounded(g * root(g)))
        return quantised(scaled, ZERO[result], result)

    bench.check(sram, elements(result, value))


def normed(
    v: list[int], centre: int, epsilon: Fraction, multiplier: Fraction, shift: Fraction
) -> list[Fraction]:
    """A pixel whose channels less the zero point are ``v``, before Q."""
    c, s1 = len(v), sum(v) if centre else 0
    g = root(rounded(rounded(Fraction(c * sum(n * n for n in v) - s1 * s1)) + epsilon))
    return [rounded(rounded(rounded(Fraction(c * n - s1)) / g) * multiplier + shift) for n in v]


@pytest.mark.parametrize("centre", [0, 1])
@pytest.mark.parametrize(("source", "result"), [(I16, I16), (I16, U8), (I8, I16)])
def test_norm(centre: int, source: int, result: int):
    bench = Bench(17)
    multiplier, shift = (bench.rng.normal(0, 40, (2, C)) * 256.0 ** (SIZE[result] - 1)).astype(np.float32)
    bench.put(64, [multiplier, shift], "<f4")
    sram, _, _ = bench.run(
        "norm", h=H, w=W, c=C, parameters=64, centre=centre, epsilon=0.7, src_zero=ZERO[source], src_type=source,
        dst_zero=ZERO[result], dst_type=result, **IMAGES,
    )  # fmt: skip

    def value(y: int, x: int, ch: int) -> int:
        v = [src(bench, source, y, x, d) - ZERO[source] for d in range(C)]
        t = normed(v, centre, f32(0.7), f32(multiplier[ch]), f32(shift[ch]))[ch]
        return quantised(t, ZERO[result], result)

    bench.check(sram, elements(result, value))


def test_norm_of_i16_whose_variance_is_beyond_float64():
    bench, c = Bench(18), 8191
    bench.put(1 << 18, np.full(2 * c, 1000.0), "<f4")
    sram, _, _ = bench.run(
        "norm", h=1, w=1, c=c, src_type=I16, parameters=1 << 18, centre=1, epsilon=1.0, dst=1 << 17, dst_type=I16
    )  # fmt: skip
    v = [bench.number(2 * ch, I16) for ch in range(c)]
    spread = c * sum(n * n for n in v) - sum(v) ** 2
    assert spread > 2**53
    bits = [quantised(t, 0, I16) for t in normed(v, 1, Fraction(1), Fraction(1000), Fraction(1000))]
    assert sram[1 << 17 : (1 << 17) + 2 * c].view("<u2").tolist() == bits


@pytest.mark.parametrize(("order", "last"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_topk(order: int, last: int):
    bench, k = Bench(19), 4
    for y, x in np.ndindex(H, W):  # many equal ones, and bytes whose order is not that of the numbers
        bench.put(1000 + y * 40 + x * 12, bench.rng.choice([-32768, -256, -1, 0, 1, 255, 32767], C), "<i2")
    sram, _, _ = bench.run(
        "topk", h=H, w=W, c=C, k=k, src_type=I16, order=order, last=last, values_on=1, indices_on=1, index=30001,
        index_row=70, index_pixel=-23, **IMAGES,
    )  # fmt: skip
    expected: dict[int, int] = {}
    for y, x in np.ndindex(H, W):
        v = [src(bench, I16, y, x, ch) for ch in range(C)]
        ranks = sorted(range(C), key=lambda ch: (v[ch] if order else -v[ch], -ch if last else ch))
        for j, ch in enumerate(ranks[:k]):
            expected |= stored(20000 + y * 40 + x * 14 + 2 * j, v[ch], 2)
            expected |= stored(30001 + y * 70 - x * 23 + 4 * j, ch, 4)
    bench.check(sram, expected)


def test_copy_moves_elements_of_two_bytes():
    bench = Bench(20)
    counts, from_, to = (2, 3, 4, 2), (6, -20, 100, 1000), (4, 8, 24, 96)
    fields: dict[str, Any] = {f"n{n}": v for n, v in enumerate(counts)}
    fields |= {f"src_s{n}": v for n, v in enumerate(from_)} | {f"dst_s{n}": v for n, v in enumerate(to)}
    sram, _, _ = bench.run("copy", src=500, dst=9000, element_bytes=2, **fields)
    expected: dict[int, int] = {}
    for index in np.ndindex(*counts):
        bits = bench.number(500 + sum(i * s for i, s in zip(index, from_, strict=True)), I16)
        expected |= stored(9000 + sum(i * s for i, s in zip(index, to, strict=True)), bits, 2)
    assert len(expected) == 96
    bench.check(sram, expected)


def test_a_step_reads_the_size_that_it_is_given():
    bench = Bench(21)
    with pytest.raises(AssertionError, match="the size that the one before it gives"):
        bench.run("map", h=H, w=W, c=C, table1_on=2, table1=3000, table2_on=1, table2=4000, **IMAGES)
    with pytest.raises(AssertionError, match="multiple of its element's size"):
        bench.run("map", h=H, w=W, c=C, src_type=I16, **(IMAGES | {"src": 1001}))
