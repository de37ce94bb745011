"""Footprints against the bytes that plain loops, written from docs/isa.md, touch one by one."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ommatid.isa.footprint import ACCESS, accesses, bounds, pieces
from ommatid.isa.instructions import BY_MNEMONIC, Memory, Mode
from ommatid.isa.target import Target, load_target
from ommatid.isa.weights import pack_weights
from tests.isa.builder import Builder
from tests.isa.records import MNEMONICS, legal_fields

Fields = dict[str, Any]
Touched = dict[str, set[int]]  # operand: its bytes
SMALL = 3
TARGETS = [load_target(name) for name in ("ommatid-256", "ommatid-1k")]
SIZE = (1, 1, 2)  # bytes of an element of each type
TABLE = (0, 256, 512, 1026)  # and of each table


def size(f: Fields, kind: str) -> int:
    """Bytes of an element of the type in a field."""
    return SIZE[f[kind]]


def image(f: Fields, name: str, h: int, w: int, c: int) -> set[int]:
    """The bytes of an image of h x w pixels of c bytes."""
    row, pixel = f[f"{name}_row"], f[f"{name}_pixel"]
    return {f[name] + y * row + x * pixel + ch for y, x, ch in product(range(h), range(w), range(c))}


def span(address: int, size: int) -> set[int]:
    return set(range(address, address + size))


def accumulators(f: Fields, channels: int) -> set[int]:
    pixels = range(f["out_h"] * f["out_w"])
    bytes_ = range(f["acc_bytes"] * channels)
    return {f["acc"] + p * f["acc_pixel"] + byte for p in pixels for byte in bytes_}


def dma(f: Fields, name: str) -> set[int]:
    loops = product(range(f["n1"]), range(f["n2"]), range(f["n3"]), range(f["run"]))
    return {
        f[name] + a * f[f"{name}_s1"] + b * f[f"{name}_s2"] + d * f[f"{name}_s3"] + byte
        for a, b, d, byte in loops
    }


def window(f: Fields, c: int) -> set[int]:
    return image(f, "src", f["in_h"], f["in_w"], size(f, "src_type") * c)


def conv(f: Fields, target: Target) -> Touched:
    packed = pack_weights(
        np.zeros((f["cout"], f["kh"], f["kw"], f["cin"]), (np.int8, np.int8, np.int16)[f["weights_type"]]),
        f["row_mode"] == 1,
        target,
    )
    return {
        "src": window(f, f["cin"]),
        "weights": span(f["weights"], packed.nbytes),
        "acc": accumulators(f, f["cout"]),
    }


def dwconv(f: Fields, target: Target) -> Touched:
    taps = product(range(f["kh"]), range(f["kw"]), range(f["c"]))
    weights = {f["weights"] + (i * f["kw"] + j) * f["weights_tap"] + ch for i, j, ch in taps}
    return {"src": window(f, f["c"]), "weights": weights, "acc": accumulators(f, f["c"])}


def map_(f: Fields, target: Target) -> Touched:
    h, w, c = f["h"], f["w"], f["c"]
    touched: Touched = {name: set() for name in ("src", "acc", "parameters", "table1", "operand", "table2")}
    if f["source"] == 1:
        touched["acc"] = image(f, "src", h, w, f["acc_bytes"] * c)
        touched["parameters"] = span(f["parameters"], (4 + 4) * c)
    else:
        touched["src"] = image(f, "src", h, w, size(f, "src_type") * c)
        touched["parameters"] = span(f["parameters"], 3 * 4 * c) if f["source"] == 2 else set()
    for table in ("table1", "table2"):
        if f[f"{table}_on"]:
            touched[table] = span(f[table], TABLE[f[f"{table}_on"]])
    if f["binary"]:
        touched["operand"] = image(f, "operand", h, w, size(f, "b_type") * (c if f["operand_c"] else 1))
    return touched | {"dst": image(f, "dst", h, w, output_size(f) * c)}


def output_size(f: Fields) -> int:
    """Bytes of an element that a map writes: that of its last step that says one."""
    if f["table2_on"]:
        return 1 if f["table2_on"] == 1 else 2
    if f["binary"]:
        return size(f, "r_type")
    if f["table1_on"]:
        return 1 if f["table1_on"] == 1 else 2
    return size(f, "mid_type" if f["source"] else "src_type")


def pool(f: Fields, target: Target) -> Touched:
    written = image(f, "dst", f["out_h"], f["out_w"], size(f, "dst_type") * f["c"])
    return {"src": window(f, f["c"]), "dst": written}


def resize(f: Fields, target: Target) -> Touched:
    tables = {"rows": span(f["rows"], 8 * f["out_h"]), "columns": span(f["columns"], 8 * f["out_w"])}
    return tables | pool(f, target)


def pixels(f: Fields, target: Target) -> Touched:
    return {name: image(f, name, f["h"], f["w"], size(f, f"{name}_type") * f["c"]) for name in ("src", "dst")}


def softmax(f: Fields, target: Target) -> Touched:
    return pixels(f, target) | {"table": span(f["table"], 2048 if f["src_type"] == 2 else 1024)}


def topk(f: Fields, target: Target) -> Touched:
    element = size(f, "src_type")
    written = {"dst": ("values_on", element), "index": ("indices_on", 4)}
    touched = {
        name: image(f, name, f["h"], f["w"], each * f["k"]) if f[flag] else set()
        for name, (flag, each) in written.items()
    }
    return {"src": image(f, "src", f["h"], f["w"], element * f["c"])} | touched


def copy(f: Fields, target: Target) -> Touched:
    loops = list(product(*(range(f[f"n{i}"]) for i in range(4))))
    return {
        name: {
            f[name] + byte + sum(k * f[f"{name}_s{i}"] for i, k in enumerate(at))
            for at in loops
            for byte in range(f["element_bytes"])
        }
        for name in ("src", "dst")
    }


TOUCHED = {
    "load": lambda f, target: {name: dma(f, name) for name in ("src", "dst")},
    "fill": lambda f, target: {"dst": dma(f, "dst")},
    "store": lambda f, target: {name: dma(f, name) for name in ("src", "dst")},
    "conv": conv,
    "dwconv": dwconv,
    "map": map_,
    "pool": pool,
    "reduce": lambda f, target: {
        "src": image(f, "src", f["h"], f["w"], size(f, "src_type") * f["c"]),
        "acc": span(f["acc"], 4 * f["c"]),
    },
    "resize": resize,
    "softmax": softmax,
    "lrn": pixels,
    "norm": lambda f, target: pixels(f, target) | {"parameters": span(f["parameters"], 8 * f["c"])},
    "topk": topk,
    "copy": copy,
    "send": lambda f, target: {name: dma(f, name) for name in ("src", "dst")},
    "end": lambda f, target: {},
}


def cores(mnemonic: str, name: str, fields: dict[str, Any]) -> list[int]:
    """The cores in whose memory an operand lies, of an instruction of core 0."""
    if (mnemonic, name) == ("load", "dst"):
        return [core for core in range(4) if core == 0 or fields["multicast"] >> core & 1]
    return [fields["peer"]] if (mnemonic, name) == ("send", "dst") else [0]


#: Memory and mode of each operand where it is not SRAM that is read ("dst": SRAM that is written).
MEMORY = {("load", "src"): Memory.DRAM, ("store", "dst"): Memory.DRAM}


def expected_kind(mnemonic: str, operand: str, f: Fields) -> tuple[Memory, Mode]:
    if operand == "acc" and mnemonic == "map":
        return Memory.ACC, Mode.READ
    if operand == "acc":
        return Memory.ACC, Mode.UPDATE if f["accumulate"] else Mode.WRITE
    mode = Mode.WRITE if operand in ("dst", "index") else Mode.READ
    return MEMORY.get((mnemonic, operand), Memory.SRAM), mode


def all_bytes(access: Any) -> list[int]:
    """The bytes of an ACCESS record, repetitions counted."""
    starts = np.array([access["address"]])
    for count, step in zip(access["n"], access["s"], strict=True):
        starts = np.add.outer(starts, np.arange(count) * step)
    return np.add.outer(starts, np.arange(access["run"])).ravel().tolist()


@st.composite
def cases(draw: st.DrawFn, mnemonic: str) -> tuple[Fields, Target]:
    """Legal fields with small loops; strides that let loops meet, overlap and stand still come often."""
    fields = draw(legal_fields(mnemonic, SMALL))
    for name in fields:
        if name in ("src", "dst", "index", "operand", "acc", "weights"):
            fields[name] = 16 * draw(st.integers(40, 60))
        elif "_s" in name or name.endswith(("_row", "_pixel")):
            run = int(fields.get("run", fields.get("c", fields.get("cin", 1))))
            step = draw(st.sampled_from([0, 1, run, 2 * run, SMALL * run, -run, 16, -7]))
            fields[name] = 4 * abs(step) if name == "acc_pixel" else step
    return fields, draw(st.sampled_from(TARGETS))


def test_every_instruction_is_covered() -> None:
    assert list(TOUCHED) == MNEMONICS


@pytest.mark.parametrize("mnemonic", MNEMONICS)
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_accesses_are_the_bytes_of_plain_loops(mnemonic: str, data: st.DataObject) -> None:
    fields, target = data.draw(cases(mnemonic))
    builder = Builder(target)
    builder.emit(mnemonic, **fields)
    table = accesses(builder.stream(), target)
    names = [operand.name for operand in BY_MNEMONIC[mnemonic].operands]
    expected = {name: touched for name, touched in TOUCHED[mnemonic](fields, target).items() if touched}
    assert [(names[k["slot"]], k["core"]) for k in table] == [
        (name, core) for name in names if name in expected for core in cores(mnemonic, name, fields)
    ]
    low, high = bounds(table)
    for k, access in enumerate(table):
        name = names[access["slot"]]
        found = all_bytes(access)
        assert set(found) == expected[name]
        assert (low[k], high[k]) == (min(found), max(found) + 1)
        assert access["run"] * access["n"].prod() == len(found)
        assert (access["memory"], access["mode"]) == expected_kind(mnemonic, name, fields)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_words_of_a_piece_are_taken_together(data: st.DataObject) -> None:
    """Neighbours are of one piece if no run begins or ends between them: then the same accesses take them."""
    size, count = 64, data.draw(st.integers(1, 4))
    runs: list[list[tuple[int, int]]] = []
    address, run = np.zeros(count, np.int64), np.zeros(count, np.int64)
    n, s = np.ones((count, 4), np.int64), np.zeros((count, 4), np.int64)
    for k in range(count):
        address[k], run[k] = data.draw(st.integers(0, 16 * size - 1)), data.draw(st.integers(1, 200))
        for loop in data.draw(st.permutations(range(4)))[:2]:
            n[k, loop], s[k, loop] = data.draw(st.integers(1, 3)), data.draw(st.integers(-90, 200))
        begins = [
            address[k] + sum(i * s[k, j] for j, i in enumerate(at)) for at in product(*map(range, n[k]))
        ]
        if min(begins) < 0 or max(begins) + run[k] > 16 * size:
            n[k], begins = 1, [address[k]]
            run[k] = min(run[k], 16 * size - address[k])
        runs.append([(int(b) // 16, int(b + run[k] - 1) // 16) for b in begins])
    piece = pieces(address, run, n, s, size)
    edges = {edge for mine in runs for first, last in mine for edge in (first, last + 1)}
    takers = [[any(a <= word <= b for a, b in mine) for mine in runs] for word in range(size)]
    for word in range(1, size):
        same = piece[word] == piece[word - 1]
        assert same == (word not in edges) and piece[word] - piece[word - 1] in (0, 1)
        assert not same or takers[word] == takers[word - 1]
    assert len(piece) == size + 1 and piece[size] >= piece[size - 1]


def test_a_stream_lists_its_accesses_in_order() -> None:
    b = Builder()
    b.store(src=0, dst=64, run=4)
    b.load(src=0, dst=64, run=4)
    b.end()
    b.store(src=16, dst=80, run=4)
    table = accesses(b.stream(), b.target)
    assert table["instruction"].tolist() == [0, 0, 1, 1, 3, 3]
    assert table["slot"].tolist() == [0, 1] * 3
    assert table["address"].tolist() == [0, 64, 0, 64, 16, 80]


def test_nothing_touches_nothing() -> None:
    b = Builder()
    assert accesses(b.stream(), b.target).tolist() == []
    b.end()
    assert accesses(b.stream(), b.target).dtype == ACCESS and len(accesses(b.stream(), b.target)) == 0


def test_whole_loops_become_one_run() -> None:
    b = Builder()
    b.load(run=8, n1=4, src_s1=8, dst_s1=16, n2=2, src_s2=32, dst_s2=64)
    source, destination = accesses(b.stream(), b.target)
    assert (source["run"], source["n"].tolist()) == (64, [1] * 4)
    assert (destination["run"], destination["n"].tolist()) == (8, [4, 2, 1, 1])


def test_far_addresses_do_not_wrap() -> None:
    b = Builder()
    b.load(src=2**32 - 1, src_s1=2**31 - 1, n1=65535, dst_s1=-(2**31), run=2**32 - 1)
    low, high = bounds(accesses(b.stream(), b.target))
    assert high[0] == 2**32 - 1 + 65534 * (2**31 - 1) + 2**32 - 1
    assert low[1] == -(2**31) * 65534
