"""Instructions on random memories, and the document's arithmetic in exact fractions, one element at a time."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from ommatid.isa.target import Target, load_target
from ommatid.simulator.reference import Memories, simulate
from tests.isa.builder import Builder

LIMITS = ((0, 255), (-128, 127), (-32768, 32767))  # of types u8, i8, i16
SIZE = (1, 1, 2)


def rounded(value: Fraction) -> Fraction:
    """To float32, to nearest, ties to even, as an exact number."""
    if value == 0:
        return value
    top, bottom = abs(value.numerator), value.denominator
    exponent = top.bit_length() - bottom.bit_length()
    if top * 2 ** max(0, -exponent) < bottom * 2 ** max(0, exponent):
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, -126) - 23)
    return round(value / unit) * unit  # round() takes ties to even


def root(value: Fraction) -> Fraction:
    """The square root, rounded to float32, of a float32 number: float64's has bits enough."""
    return rounded(Fraction(float(np.sqrt(np.float64(float(value))))))


def quantised(t: Fraction, zero: int, kind: int) -> int:
    """Q: the element's bits, as a number from 0 on."""
    low, high = LIMITS[kind]
    return (round(min(max(t, Fraction(low - zero)), Fraction(high - zero))) + zero) % 256 ** SIZE[kind]


def f32(value: float) -> Fraction:
    return Fraction(float(np.float32(value)))


def num(byte: int, kind: int) -> int:
    return int(byte) - 256 if kind and byte > 127 else int(byte)


def stored(at: int, bits: int, size: int) -> dict[int, int]:
    """The bytes of an element by address, little-endian; ``bits`` may be negative."""
    return {at + n: bits >> 8 * n & 255 for n in range(size)}


class Bench:
    """Random memories, one instruction, and what comes of it."""

    def __init__(self, seed: int, target: str = "ommatid-1k") -> None:
        self.rng = np.random.default_rng(seed)
        self.target = load_target(target)
        sram = self.rng.integers(0, 256, self.target.sram_bytes, np.uint8)
        acc = self.rng.integers(-(2**20), 2**20, self.target.accumulator_bytes // 4).astype(np.int32)
        dram = self.rng.integers(0, 256, 1 << 16, np.uint8)
        cores = range(self.target.cores)
        self.before = Memories(dram, [sram.copy() for _ in cores], [acc.copy() for _ in cores])

    def put(self, address: int, values: Any, kind: str) -> None:
        data = np.asarray(values).astype(kind).reshape(-1).view(np.uint8)
        self.before.sram[0][address : address + len(data)] = data

    def number(self, at: int, kind: int) -> int:
        """The element at an address of the SRAM."""
        data = self.before.sram[0][at : at + SIZE[kind]].tobytes()
        return int.from_bytes(data, "little", signed=kind > 0)

    def run(self, mnemonic: str, **fields: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(SRAM, accumulators, DRAM) of core 0 after the instruction."""
        b = Builder(self.target, dram_bytes=1 << 16)
        b.emit(mnemonic, **fields)
        after = simulate(b.program(), memories=self.before).memories
        return after.sram[0], after.acc[0], after.dram

    def check(self, after: np.ndarray, expected: dict[int, int]) -> None:
        """The SRAM holds these bytes by address, and all else as before."""
        image = self.before.sram[0].copy()
        for at, byte in expected.items():
            image[at] = int(byte) % 256
        np.testing.assert_array_equal(after, image)


WINDOWS = [
    {"in_h": 5, "in_w": 6, "pad_top": 1, "pad_left": 2, "kh": 3, "kw": 3, "stride_h": 1, "stride_w": 2,
     "dilation_h": 1, "dilation_w": 1, "out_h": 5, "out_w": 4},
    {"in_h": 7, "in_w": 5, "pad_top": -1, "pad_left": 1, "kh": 2, "kw": 3, "stride_h": 2, "stride_w": 1,
     "dilation_h": 3, "dilation_w": 1, "out_h": 3, "out_w": 5},
    {"in_h": 1, "in_w": 1, "pad_top": 3, "pad_left": 3, "kh": 1, "kw": 1, "stride_h": 1, "stride_w": 1,
     "dilation_h": 1, "dilation_w": 1, "out_h": 2, "out_w": 7},
]  # fmt: skip


def taps(w: dict[str, int], y: int, x: int) -> list[tuple[int, int, int, int]]:
    """(i, j, input row, input column) of the taps inside the input."""
    found = []
    for i in range(w["kh"]):
        for j in range(w["kw"]):
            iy = y * w["stride_h"] - w["pad_top"] + i * w["dilation_h"]
            ix = x * w["stride_w"] - w["pad_left"] + j * w["dilation_w"]
            if 0 <= iy < w["in_h"] and 0 <= ix < w["in_w"]:
                found.append((i, j, iy, ix))
    return found


def tiles(weights: np.ndarray, row_mode: int, zero: int, target: Target) -> list[int]:
    """Weights [cout, kh, kw, cin] in the order of conv's tiles; ``zero`` fills up."""
    cout, kh, kw, cin = weights.shape
    k, lanes = target.mx_k_bytes, target.mx_channels
    made: list[int] = []
    for group in range(-(-cout // lanes)):
        for i in range(kh):
            taps_of_row = [[(j, ch) for j in range(kw) for ch in range(cin)]]
            if not row_mode:
                taps_of_row = [[(j, ch) for ch in range(cin)] for j in range(kw)]
            for positions in taps_of_row:
                padded = positions + [None] * (-len(positions) % k)
                for step in range(0, len(padded), k):
                    for quad in range(0, k, 4):
                        for channel in range(group * lanes, (group + 1) * lanes):
                            for at in padded[step + quad : step + quad + 4]:
                                known = at is not None and channel < cout
                                made.append(int(weights[channel, i, at[0], at[1]]) if known else zero)
    return made
