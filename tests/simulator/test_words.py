"""Words that instructions ask of the banks in closed form, against the lists that the reference machine steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ommatid.isa.cost import cost_cycles
from ommatid.isa.instructions import DTYPES
from ommatid.isa.target import load_target
from ommatid.simulator import timing
from ommatid.simulator.reference.decode import decode_all
from ommatid.simulator.reference.plan import plan
from ommatid.simulator.words import bank_words, vx_elements
from tests.isa.builder import Builder

TARGET = load_target()
MOVED = ("src", "dst", "operand")

#: Every tap lies inside the input, so that none is left out; sets of pixels and passes are full.
WINDOW = {"in_h": 9, "in_w": 40, "out_h": 4, "out_w": 8, "kh": 2, "kw": 3, "stride_h": 2, "stride_w": 3}
IMAGE = {"h": 5, "w": 7, "c": 20}
RESIZE = {"in_h": 4, "in_w": 3, "out_h": 4, "out_w": 3, "c": 20, "rows": 262144, "columns": 270336}
CONV = WINDOW | {"cin": 32, "cout": 20, "weights": 8192, "acc_pixel": 80}
CASES = {
    "map": IMAGE,
    "map of two images": IMAGE | {"binary": 1, "operand_c": 1},
    "map of an image and pixels": IMAGE | {"binary": 2},
    "map of accumulators": IMAGE | {"source": 1},
    "pool": WINDOW | {"c": 20},
    "reduce": IMAGE,
    "resize": RESIZE,
    "resize of four": RESIZE | {"taps": 1},
    "softmax": IMAGE,
    "lrn": IMAGE | {"size": 5},
    "copy": {"n0": 20, "n1": 7, "n2": 5, "src_s0": 1, "dst_s0": 1},
    "dwconv": WINDOW | {"c": 32, "weights": 8192, "weights_tap": 32, "acc_pixel": 128},
    "conv": CONV,
    "conv by rows": CONV | {"row_mode": 1},
    "conv of pixels that share words": CONV | {"cin": 3, "stride_w": 1},
}


def counted(mnemonic: str, **fields: int) -> tuple[float, float]:
    """Words of one instruction by the closed form, and those of the reference machine's lists."""
    b = Builder(TARGET)
    b.emit(mnemonic, **{k: v for k, v in fields.items() if k in DTYPES[mnemonic].names})
    words, *_ = bank_words(b.stream(), cost_cycles(b.stream(), TARGET), TARGET)
    sram = np.zeros(TARGET.sram_bytes, np.uint8)
    for at in (RESIZE["rows"], RESIZE["columns"]):  # of weights 1 and 1, or of one alone
        sram[at : at + 64] = np.tile(np.array([0, 1, 1, fields.get("taps", 0)], "<u2"), 8).view(np.uint8)
    made = plan(decode_all(b.stream())[0], TARGET, sram)
    return float(words[0]), float(sum(len(each) for _, _, each in made.reads + made.writes + made.moved))


def sides(row: int, pixel: int) -> dict[str, int]:
    """Strides of all images; each begins elsewhere."""
    fields = {"src": 4096, "dst": 65536, "operand": 131072}
    for i, side in enumerate(MOVED):
        fields |= {f"{side}_row": row - 16 * i, f"{side}_pixel": pixel + 16 * i}
    return fields | {"src_s1": pixel, "src_s2": row, "dst_s1": pixel + 16, "dst_s2": row - 16}


@pytest.mark.parametrize(
    "name", [name for name in CASES if "share" not in name]
)  # pixels of 3 bytes are not aligned
def test_words_of_aligned_runs_are_exact(name: str) -> None:
    pixel = 32 if name.startswith("conv") else 48
    ours, theirs = counted(name.split()[0], **sides(4096, pixel) | CASES[name])
    assert ours == theirs


@pytest.mark.parametrize("name", CASES)
def test_words_of_other_runs_are_those_on_average(name: str) -> None:
    fields = (
        sides(4099, {"conv by rows": 32, "conv of pixels that share words": 3}.get(name, 37)) | CASES[name]
    )
    found = []
    for shift in range(16):
        moved = {side: fields[side] + shift for side in MOVED}
        found.append(counted(name.split()[0], **fields | moved))
    ours, theirs = np.mean(found, axis=0)
    assert ours == pytest.approx(theirs)


@pytest.mark.parametrize("mnemonic", ["map", "reduce", "softmax", "lrn", "pool"])
def test_pixels_that_follow_one_another_are_one_run(mnemonic: str) -> None:
    # 7 pixels of 20 bytes are 140 bytes in 9 words, one by one they would be 14; a pool's windows stay apart
    fields = sides(4096, 48) | IMAGE | WINDOW | {"out_h": 4, "out_w": 7, "size": 5, "dst_pixel": 20}
    if mnemonic != "pool":
        fields |= {"src_pixel": 20}
    ours, theirs = counted(mnemonic, **fields)
    assert ours == theirs


@pytest.mark.parametrize("mnemonic, fields, expected", [
    ("norm", {}, 2 * 70 + 70),  # 35 pixels of 2 words are read twice
    ("topk", {"k": 5, "values_on": 1}, 5 * 70 + 35),
    ("topk", {"k": 5, "indices_on": 1}, 5 * 70 + 70),  # 20 bytes of indices a pixel
    ("topk", {"k": 5, "indices_on": 1, "values_on": 1}, 5 * 70 + 35 + 70),
])  # fmt: skip
def test_passes_over_an_image(mnemonic: str, fields: dict[str, int], expected: int) -> None:
    b = Builder(TARGET)
    b.emit(mnemonic, h=5, w=7, c=20, src_row=4096, src_pixel=48, dst=65536, dst_row=4096, dst_pixel=32,
           **({"index": 131072, "index_row": 4096, "index_pixel": 64} | fields if mnemonic == "topk" else fields))  # fmt: skip
    words, *_ = bank_words(b.stream(), cost_cycles(b.stream(), TARGET), TARGET)
    assert words.tolist() == [expected]


@pytest.mark.parametrize("name, side", [
    ("map", "src"), ("map", "dst"), ("map of two images", "operand"), ("pool", "src"), ("pool", "dst"), ("reduce", "src"),
    ("resize", "src"), ("resize", "dst"), ("softmax", "src"), ("softmax", "dst"), ("lrn", "src"), ("lrn", "dst"),
    ("dwconv", "src"), ("dwconv", "weights"),
])  # fmt: skip
def test_each_side_is_looked_at_by_itself(name: str, side: str) -> None:
    fields = sides(4096, 48) | CASES[name] | {"c": 16}
    aligned, shifted = (counted(name.split()[0], **fields | {side: fields[side] + n}) for n in (0, 1))
    # every run touches a second word; on average over all places 15 of 16 do
    assert shifted[1] > aligned[1] == aligned[0]
    assert shifted[0] - aligned[0] == 15 / 16 * (shifted[1] - aligned[1])


@pytest.mark.parametrize("mnemonic, fields", [
    ("fill", {"dst": 4099, "run": 50, "n1": 3, "dst_s1": 100}),
    ("load", {"dst": 4099, "run": 50, "n1": 3, "src_s1": 50, "dst_s1": 100}),
    ("store", {"src": 4099, "dst": 64, "run": 50, "n1": 3, "src_s1": 100, "dst_s1": 50}),
    ("end", {}),
])  # fmt: skip
def test_dma_takes_a_cycle_for_each_word(mnemonic: str, fields: dict[str, Any]) -> None:
    ours, theirs = counted(mnemonic, **fields)
    assert ours == theirs == (0 if mnemonic == "end" else 4 + 4 + 4)


def test_a_port_too_narrow_for_words_sets_the_pace() -> None:
    b = Builder(replace(TARGET, port_vx_read_bytes_per_cycle=16))
    b.reduce(h=1, w=3, c=16, src=1, src_row=4099, src_pixel=37)
    b.reduce(h=1, w=3, c=16, src=0, src_row=4096, src_pixel=32)
    words, pace, _ = bank_words(b.stream(), cost_cycles(b.stream(), b.target), b.target)
    # an unaligned run of 16 bytes touches 1 + 15 / 16 words, and the port grants 2 a cycle: 3 runs take 2.9 cycles, not 2
    assert words.tolist() == [3 * (1 + 15 / 16), 3]
    assert pace.tolist() == [16 + 3, 16 + 2]


def test_a_port_too_narrow_for_what_is_written_sets_the_pace() -> None:
    b = Builder(replace(TARGET, port_vx_write_bytes_per_cycle=16))
    b.map(h=1, w=5, c=16, dst=65537, dst_row=4099, dst_pixel=37, src_row=4096, src_pixel=32)
    _, pace, _ = bank_words(b.stream(), cost_cycles(b.stream(), b.target), b.target)
    assert pace.tolist() == [16 + 5]  # 5 * (1 + 15 / 16) words by 2


def test_steps_of_the_vector_engine_are_its_beats_by_its_width() -> None:
    b = Builder()
    b.end()
    b.conv()
    b.reduce(h=1, w=3, c=16)
    assert vx_elements(b.stream(), TARGET).tolist() == [0, 0, 2 * 32]


def test_words_of_a_cycle_are_those_of_its_pace() -> None:
    b = Builder()
    for words in (1, 2, 7):
        b.fill(run=16 * words)
    assert timing.decode(b.stream(), b.target)["words"].tolist() == [1, 1, 1]
