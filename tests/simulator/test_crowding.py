"""Instructions whose own words crowd in few banks, alone on the chip: their time beside the reference machine's."""

from __future__ import annotations

import pytest

from ommatid.isa.cost import cost_cycles
from ommatid.isa.target import load_target
from ommatid.simulator import reference
from ommatid.simulator.timing import simulate
from tests.isa.builder import Builder

Fields = dict[str, int]


def cases(banks: int) -> dict[str, Fields]:
    """Instructions that read or write pixels of which all begin in bank 0; an image's rows repeat the pattern."""
    row, pixel = banks**3 * 16, (banks + 1) * 16

    def crowded(side: str, place: int) -> Fields:
        return {side: 4 * place * row, f"{side}_row": row, f"{side}_pixel": pixel}

    def spread(side: str, place: int) -> Fields:
        return {side: 4 * place * row, f"{side}_row": 32 * banks, f"{side}_pixel": 32}

    image = {"h": 4, "w": banks, "c": 16}
    wide = {"src": 0, "src_row": row, "src_pixel": 2 * pixel, "w": banks // 2, "c": 40}
    accumulators = {"source": 1, "src": 0, "src_row": 64 * banks, "src_pixel": 64}
    two = crowded("operand", 1) | spread("dst", 2) | {"binary": 1}
    runs = {"n0": 16, "n1": banks, "n2": 4, "src_s0": 1, "dst_s0": 1, "src": 0, "dst": 8 * row}
    conv = {"in_h": 4, "in_w": banks, "out_h": 4, "out_w": banks, "cin": 16, "cout": 16, "weights": 12 * row,
            "acc_pixel": 64} | crowded("src", 0)  # fmt: skip
    return {
        "reduce": image | crowded("src", 0),
        "reduce of unaligned pixels": image | crowded("src", 0) | {"src": 5},
        "reduce of wide pixels": image | wide,
        "reduce of rows that are one run": image | {"src": 8, "src_row": 0, "src_pixel": 16, "w": 2, "h": 64},
        "map that reads": image | crowded("src", 0) | spread("dst", 2),
        "map that writes": image | spread("src", 0) | crowded("dst", 2),
        "map that does both": image | crowded("src", 0) | crowded("dst", 2),
        "map of two images": image | crowded("src", 0) | two | {"operand_c": 1},
        "map of a crowded operand": image | spread("src", 0) | two | {"operand_c": 1},
        "map of pixels of one byte": image | spread("src", 0) | two,
        "map of accumulators": image | accumulators | crowded("dst", 2),
        "lrn": image | crowded("src", 0) | spread("dst", 2) | {"size": 1},
        "copy that reads": runs | {"src_s1": pixel, "src_s2": row, "dst_s1": 16, "dst_s2": 16 * banks},
        "copy that writes": runs | {"dst_s1": pixel, "dst_s2": row, "src_s1": 16, "src_s2": 16 * banks},
        "copy byte by byte": {"n0": banks, "n1": 3, "n2": 4, "src_s0": pixel, "src_s1": 1, "src_s2": row,
                              "dst": 8 * row, "dst_s0": 1, "dst_s1": banks, "dst_s2": 3 * banks},
        "conv": conv,
        "conv of several steps": conv | {"cin": 64},
        "conv of several groups": conv | {"cout": 40, "acc_pixel": 160},
        "conv with padding": conv | {"kh": 3, "kw": 3, "pad_top": 1, "pad_left": 1},
        "conv with strides": conv | {"out_h": 2, "out_w": banks // 2, "stride_h": 2, "stride_w": 2},
        "conv with dilations": conv | {"out_h": 2, "out_w": banks - 4, "kh": 2, "kw": 3, "dilation_h": 2, "dilation_w": 2},
        "conv by rows": conv | {"out_w": 4, "kw": 3, "row_mode": 1, "src_pixel": 16},
        "conv by rows with padding": conv | {"in_w": 4, "out_w": 6, "pad_left": 2, "kw": 3, "row_mode": 1, "src_pixel": 16},
        "conv from right to left": conv | {"src": 4 * row, "src_pixel": -pixel},
        "conv of weights elsewhere": conv | {"cin": 64, "weights": 12 * row + 80},
        "conv of pixels that lie in two words": conv | {"src": 12, "src_pixel": 32, "cin": 8},
    }  # fmt: skip


@pytest.mark.parametrize("name", cases(16))
@pytest.mark.parametrize("target", ["ommatid-256", "ommatid-1k"])
def test_time_alone_is_that_of_the_banks(name: str, target: str) -> None:
    b = Builder(target)
    mnemonic = name.split()[0]
    b.emit(mnemonic, **cases(b.target.sram_banks)[name] | ({"bias": 1} if mnemonic == "lrn" else {}))
    fast, judge = simulate(b.program()), reference.simulate(b.program())
    assert fast.cycles == judge.cycles
    assert fast.cycles >= fast.start[0] + cost_cycles(b.stream(), b.target)[0]


def test_the_cases_do_crowd() -> None:
    slower = 0
    target = load_target()
    for name, fields in cases(target.sram_banks).items():
        b = Builder(target)
        b.emit(name.split()[0], **fields)
        timing = simulate(b.program())
        slower += timing.cycles - timing.start[0] > 1.3 * cost_cycles(b.stream(), target)[0]
    assert slower >= 15


def test_only_the_first_beats_are_stepped() -> None:
    # 6 times as many beats as are stepped take 6 times as long: the pattern repeats
    times = []
    for h in (256, 6 * 256):
        b = Builder()
        b.reduce(h=h, w=16, c=16, src=0, src_row=0, src_pixel=17 * 16)
        timing = simulate(b.program())
        times.append(timing.cycles - timing.start[0])
    assert times[0] == pytest.approx(256 * 16, abs=16)  # a word a cycle
    assert times[1] == pytest.approx(6 * 256 * 16, rel=0.01)
