"""The reference machine's lists of words, against plain loops over bytes and counts by hand."""

from collections.abc import Iterable
from types import SimpleNamespace

import numpy as np
import pytest

from ommatid.simulator.reference import words


def of_bytes(runs: Iterable[Iterable[int]]) -> list[int]:
    """The words of each run's bytes, in order."""
    return [word for run in runs for word in dict.fromkeys(byte // 16 for byte in run)]


def test_banks():
    a = np.array([0, 1, 15, 16, 17, 0x110, 0x123, 0x1234])
    assert words.banks(a, 16) == [0, 1, 15, 1, 0, 0, 3 ^ 2 ^ 1, 4 ^ 3 ^ 2]
    assert words.banks(a[:3], 1) == [0, 0, 0]


def test_loops_join_innermost_first():
    assert words.joined(8, [(2, 8), (3, 16), (2, 99)]) == (48, [(2, 99)])
    assert words.joined(8, [(2, 9), (3, 8)]) == (8, [(2, 9), (3, 8)])
    assert words.joined(8, [(5, 0), (3, 8)]) == (8, [(5, 0), (3, 8)])
    assert words.joined(8, [(5, 0), (3, 8)], zero_joins=True) == (24, [])


def test_blocks_count_what_each_run_touches():
    assert words.blocks(60, 8, [(1, 0)], 64) == 2
    assert words.blocks(0, 8, [(3, 16)], 64) == 3  # the same burst for each run
    assert words.blocks(0, 8, [(8, 8)], 64) == 1


def test_image():
    assert words.image(12, 2, 3, 5, 100, 10).tolist() == of_bytes(
        range(12 + y * 100 + x * 10, 12 + y * 100 + x * 10 + 5) for y in range(2) for x in range(3)
    )
    assert words.image(8, 2, 3, 5, 15, 5).tolist() == [0, 1, 2]


def test_single_elements():
    assert words.single_elements(np.array([0, 1, 16, 17, 2, 40])).tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_window(kind: int):
    f = SimpleNamespace(
        src=10, src_row=70, src_pixel=18, in_h=3, in_w=4, pad_top=1, pad_left=0, kh=2, kw=3, stride_h=2, stride_w=1,
        dilation_h=1, dilation_w=2, out_h=2, out_w=3, c=9, src_type=kind,
    )  # fmt: skip
    runs = []
    for y, x, i, j in np.ndindex(2, 3, 2, 3):
        iy, ix = 2 * y - 1 + i, x + 2 * j
        if 0 <= iy < 3 and 0 <= ix < 4:
            at = 10 + iy * 70 + ix * 18
            runs.append(range(at, at + (18 if kind == 2 else 9)))
    assert words.window(f).tolist() == of_bytes(runs)


def test_conv_activations():
    rng = np.random.default_rng(3)
    for trial in range(90):
        row_mode, cin, kind = trial % 2, int(rng.integers(1, 40)), trial % 3
        size, kw = 2 if kind == 2 else 1, int(rng.integers(1, 4))
        f = SimpleNamespace(
            src=int(rng.integers(0, 999)) * size, src_row=int(rng.integers(0, 500)) * size, row_mode=row_mode, cin=cin,
            src_pixel=cin * size if row_mode and kw > 1 else int(rng.integers(0, 80)) * size, cout=int(rng.integers(1, 40)),
            in_h=int(rng.integers(1, 5)), in_w=int(rng.integers(1, 7)), out_h=int(rng.integers(1, 5)),
            out_w=int(rng.integers(1, 7)), kh=int(rng.integers(1, 4)), kw=kw,
            pad_top=int(rng.integers(-1, 3)), pad_left=int(rng.integers(-1, 3)), stride_h=int(rng.integers(1, 3)),
            stride_w=int(rng.integers(1, 3)), dilation_h=2, dilation_w=1 if row_mode else 2, src_type=kind,
        )  # fmt: skip
        assert words.conv_activations(f, 16, 16, 4).tolist() == conv_activations(f, 16, 16, 4)


def conv_activations(f: SimpleNamespace, k: int, channels: int, pixels: int) -> list[int]:
    """The list as the document says it, position by position, byte by byte."""
    expected: list[int] = []
    size = 2 if f.src_type == 2 else 1
    length = f.kw * f.cin if f.row_mode else f.cin
    steps = np.ndindex(-(-f.cout // channels), f.kh, 1 if f.row_mode else f.kw, -(-length // k))
    for _, i, j, step in steps:
        before: list[int] = []
        for p in range(f.out_h * f.out_w):
            y, x = divmod(p, f.out_w)
            iy = y * f.stride_h - f.pad_top + i * f.dilation_h
            touched = []
            for position in range(step * k, min(step * k + k, length)):
                tap, ch = divmod(position, f.cin) if f.row_mode else (j, position)
                ix = x * f.stride_w - f.pad_left + tap * f.dilation_w
                if 0 <= iy < f.in_h and 0 <= ix < f.in_w:
                    at = f.src + iy * f.src_row + ix * f.src_pixel + size * ch
                    touched += [byte // 16 for byte in range(at, at + size)]
            expected += [w for w in dict.fromkeys(touched) if p % pixels == 0 or w not in before]
            before = touched
    return expected


def test_dwconv_lists():
    # On ommatid-1k P = 128 / 16 = 8 columns of 16 channels, whose inputs span 10 pixels.
    f = SimpleNamespace(
        src=0, src_row=256, src_pixel=32, in_h=8, in_w=8, pad_top=1, pad_left=1, kh=3, kw=3, stride_h=1, stride_w=1,
        dilation_h=1, dilation_w=1, out_h=8, out_w=8, c=24, weights=4096, weights_tap=24, src_type=0,
    )  # fmt: skip
    activations, weights = words.dwconv_lists(f, 16, 8)
    rows = 8 * 3 - 2  # kernel rows inside the input
    assert activations.tolist()[:9] == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    assert len(activations) == 2 * rows * 8  # 8 of the span's pixels are inside; one word each
    # Taps of 24 bytes: of the first 16 channels every other tap lies in two words, of the last 8 none does.
    assert weights[:5].tolist() == [256, 257, 258, 259, 260]
    assert len(weights) == 8 * (9 + 4) + 8 * 9


def test_dwconv_lists_of_i16():
    # Pixels of 24 i16, 48 bytes: the first 16 channels are two words, the last 8 one; the weights stay bytes.
    f = SimpleNamespace(
        src=0, src_row=512, src_pixel=48, in_h=8, in_w=8, pad_top=1, pad_left=1, kh=3, kw=3, stride_h=1, stride_w=1,
        dilation_h=1, dilation_w=1, out_h=8, out_w=8, c=24, weights=4096, weights_tap=24, src_type=2,
    )  # fmt: skip
    activations, weights = words.dwconv_lists(f, 16, 8)
    rows = 8 * 3 - 2
    assert activations.tolist()[:6] == [0, 1, 3, 4, 6, 7]
    assert activations.tolist()[rows * 16 :][:3] == [2, 5, 8]
    assert len(activations) == rows * 8 * 3
    assert len(weights) == 8 * (9 + 4) + 8 * 9


def test_resize_reads_what_has_weight():
    f = SimpleNamespace(src=0, src_row=160, src_pixel=16, c=16, src_type=0)
    rows = np.array([[0, 1, 2048, 0], [1, 2, 1000, 1048]], np.uint16)
    columns = np.array([[3, 4, 1, 2047]], np.uint16)
    assert words.resize(f, rows, columns).tolist() == [3, 4, 13, 14, 23, 24]
    f.src_type = 2  # 32 bytes at a pitch of 16
    assert words.resize(f, rows, columns).tolist() == [3, 4, 4, 5, 13, 14, 14, 15, 23, 24, 24, 25]
