"""The reference machine's time: small programs whose cycles are counted by hand from docs/isa.md.

On ``ommatid-1k`` the DRAM moves 12.8 bytes a cycle: a burst of 64 bytes takes 5 cycles, an instruction 10, so a
program of n <= 32 instructions is there at moment 10 * n, with no credit left. Latency is 100 cycles, the moment
after the grant's cycle counted: of a burst granted in cycle g, the words are requested from g + 101 on.
"""

import ast
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ommatid.isa.instructions import BY_MNEMONIC, DTYPES, INSTRUCTIONS
from ommatid.isa.target import load_target
from ommatid.simulator.reference import Deadlock, Reference, simulate
from ommatid.simulator.reference.decode import FIELDS, OPCODES, decode
from ommatid.simulator.reference.plan import plan
from tests.isa.builder import Builder


def times(b: Builder) -> list[tuple[int, int, int]]:
    """(start, released, end) of each instruction; stepping every cycle must give the same."""
    run, stepped = simulate(b.program()), simulate(b.program(), skip=False)
    assert run.cycles == stepped.cycles
    assert run.accounts == stepped.accounts
    found = list(zip(run.start.tolist(), run.released.tolist(), run.end.tolist(), strict=True))
    assert found == list(
        zip(stepped.start.tolist(), stepped.released.tolist(), stepped.end.tolist(), strict=True)
    )
    assert run.cycles == max(end for _, _, end in found)
    return found


def account(run: Reference, engine: str, core: int = 0) -> dict[str, int]:
    """What an engine's cycles went to, without zeros."""
    of = run.accounts[core, engine]
    return {k: v for k, v in {"busy": of.busy, "idle": of.idle, **of.stalls}.items() if v}


def test_decoder_has_every_field_where_the_table_has_it():
    for row in INSTRUCTIONS:
        assert OPCODES[row.opcode] == (row.mnemonic, row.engine)
        dtype = DTYPES[row.mnemonic]
        ours = (FIELDS["header"] + " " + FIELDS[row.mnemonic]).split()
        assert {name.split(":")[0] for name in ours} == set(dtype.names)
        rng = np.random.default_rng(row.opcode)
        record = np.frombuffer(rng.bytes(128), dtype).copy()
        record["opcode"] = row.opcode
        decoded = decode(record.tobytes())
        assert (decoded.core, decoded.wait, decoded.signal) == tuple(
            record[name].item() for name in ("core", "wait", "signal")
        )
        for field in row.fields:
            value, expected = getattr(decoded.fields, field.name), record[field.name].item()
            assert value == expected or (value != value and expected != expected), field.name


def test_decoder_is_the_document_table():
    text = (Path(__file__).parents[2] / "docs/isa.md").read_text(encoding="utf-8")
    codes = {"u32": "I", "i32": "i", "u16": "H", "i16": "h", "u8": "B", "f32": "f"}
    for name, body in re.findall(r"<!-- table:(\w+) -->\n(.*?)<!-- /table -->", text, re.S):
        if name != "instructions":
            rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (\w+) \|", body, re.M)
            assert FIELDS[name] == " ".join(f"{field}:{at}{codes[kind]}" for at, field, kind in rows)


IMAGE = {"h": 4, "w": 4, "src_row": 80, "src_pixel": 20, "dst": 4096, "dst_row": 80, "dst_pixel": 20}
KERNEL3 = {"kh": 3, "kw": 3, "pad_top": 1, "pad_left": 1}


@pytest.mark.parametrize(
    ("target", "mnemonic", "fields", "startup", "beats"),
    [
        ("ommatid-1k", "map", IMAGE | {"c": 20}, 16, 16),  # 16 pixels of two words of 16
        ("ommatid-1k", "map", IMAGE | {"c": 20, "binary": 1}, 16, 16),  # two images over 64 bytes a cycle
        ("ommatid-1k", "map", IMAGE | {"c": 20, "binary": 1, "source": 1}, 16, 16),
        ("ommatid-256", "map", IMAGE | {"c": 20, "binary": 2}, 16, 48),  # three words of 8; 768 over 16
        ("ommatid-1k", "pool", KERNEL3 | {"out_h": 2, "out_w": 2, "c": 16}, 16, 18),
        ("ommatid-1k", "reduce", {"h": 4, "w": 4, "c": 16}, 16, 8),
        ("ommatid-1k", "resize", {"out_h": 2, "out_w": 3, "c": 16, "taps": 1}, 16, 12),
        ("ommatid-1k", "resize", {"out_h": 2, "out_w": 3, "c": 16, "taps": 0}, 16, 3),
        ("ommatid-1k", "softmax", IMAGE | {"h": 2, "w": 2, "c": 10}, 16, 8),
        ("ommatid-1k", "lrn", IMAGE | {"h": 2, "w": 2, "c": 10, "size": 5}, 16, 16),
        ("ommatid-1k", "norm", IMAGE | {"h": 2, "w": 3, "c": 10}, 16, 9),
        ("ommatid-256", "topk", IMAGE | {"c": 20, "k": 3, "values_on": 1}, 16, 144),  # three words of 8
        (
            "ommatid-1k",
            "copy",
            {"n0": 16, "src_s0": 1, "dst_s0": 1, "n1": 4, "src_s1": 16, "dst_s1": 32},
            16,
            2,
        ),
        ("ommatid-1k", "copy", {"n0": 8, "src_s0": 1, "dst_s0": 1, "n1": 4, "src_s1": 8, "dst_s1": 8}, 16, 4),
        ("ommatid-1k", "copy", {"n0": 16, "src_s0": 16, "dst_s0": 16}, 16, 4),  # 16 words, four a cycle
        ("ommatid-1k", "conv", KERNEL3 | {"out_h": 4, "out_w": 4, "cin": 16, "cout": 32}, 16, 18 * 8),
        (
            "ommatid-1k",
            "conv",
            KERNEL3 | {"out_h": 8, "out_w": 8, "cin": 3, "cout": 16, "row_mode": 1},
            16,
            48,
        ),
        ("ommatid-256", "conv", KERNEL3 | {"out_h": 4, "out_w": 4, "cin": 16, "cout": 32}, 12, 72 * 4),
        ("ommatid-1k", "dwconv", KERNEL3 | {"out_h": 4, "out_w": 8, "stride_w": 1, "c": 32}, 16, 72),
        ("ommatid-256", "dwconv", KERNEL3 | {"out_h": 4, "out_w": 8, "stride_w": 2, "c": 32}, 16, 96 * 3),
        ("ommatid-1k", "fill", {"run": 24, "dst": 8, "n1": 2, "dst_s1": 32}, 0, 4),
        ("ommatid-1k", "send", {"run": 16, "src": 0, "dst": 8}, 0, 2),
    ],
)
def test_startup_and_beats(target: str, mnemonic: str, fields: dict[str, int], startup: int, beats: int):
    b = Builder(target)
    b.emit(mnemonic, **fields)
    made = plan(decode(b.stream().tobytes()), b.target, np.zeros(b.target.sram_bytes, np.uint8))
    assert (made.startup, made.beats) == (startup, beats)


def test_machine_knows_nothing_of_the_others():
    allowed = {f"ommatid.isa.{name}" for name in ("instructions", "program", "target")}
    for path in (Path(__file__).parents[2] / "ommatid/simulator/reference").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            ours = {n for n in names if n.startswith("ommatid") and "simulator.reference" not in n}
            assert ours <= allowed, f"{path.name} imports {ours - allowed}"


def test_end_waits_for_its_fetch():
    b = Builder()
    b.end()
    assert times(b) == [(10, 11, 11)]
    run = simulate(b.program())
    assert account(run, "ctl") == {"busy": 1, "fetch": 10}
    assert account(run, "mx") == {"idle": 11}
    assert run.dram_bytes == 128


def test_load_of_one_burst():
    b = Builder(constants=bytes(range(64)))
    b.load(src=0, dst=64, run=16, signal=["ctl"])
    b.end(wait=["load"])
    # Asks from cycle 20 without credit: granted in cycle 24; arrives at 125; one word in cycle 125.
    assert times(b) == [(20, 25, 126), (126, 127, 127)]
    run = simulate(b.program())
    # Alone on an idle chip the burst would be granted in its first cycle.
    assert account(run, "load") == {"fetch": 20, "busy": 1, "bandwidth": 4, "idle": 102}
    assert account(run, "ctl") == {"fetch": 20, "bandwidth": 5, "latency": 101, "busy": 1}
    assert run.memories.sram[0][60:84].tolist() == [0] * 4 + list(range(16)) + [0] * 4
    assert run.dram_bytes == 2 * 128 + 64


def test_loads_follow_without_a_gap():
    b = Builder()
    b.load(src=0, dst=0, run=128)
    b.load(src=128, dst=128, run=128, signal=["ctl"])
    b.end(wait=["load"])
    # Grants in 34, 39, 44, 49; each burst's four words in the four cycles from its arrival on.
    assert times(b) == [(30, 40, 144), (40, 50, 154), (154, 155, 155)]


def test_load_is_held_by_its_port_cycles():
    target = replace(load_target("ommatid-1k"), dram_gb_s=1000.0)
    b = Builder(target)
    b.load(src=0, dst=8, run=160, signal=["ctl"])  # 3 bursts, 11 words
    b.end(wait=["load"])
    # 1000 bytes a cycle: all 4 bursts of the program in cycle 0, all 3 of the load in cycle 1.
    assert times(b) == [(1, 12, 113), (113, 114, 114)]


def test_load_in_short_runs_counts_bursts_and_words_of_each_run():
    b = Builder()
    b.load(src=0, dst=0, run=8, n1=2, src_s1=8, dst_s1=16, n2=3, src_s2=32, dst_s2=64, signal=["ctl"])
    b.end(wait=["load"])
    # DRAM: loop 1 joins to runs of 16 bytes, 3 bursts; SRAM: 6 words. Grants 24, 29, 34: words 0 and 1 from
    # 125 on, 2 and 3 from 130, 4 and 5 from 135.
    assert times(b)[0] == (20, 35, 137)


def test_requests_in_flight_bound_a_load():
    target = replace(load_target("ommatid-1k"), dram_gb_s=64.0, dram_requests_in_flight=2)
    b = Builder(target)
    b.load(src=0, dst=0, run=6 * 64, signal=["ctl"])
    b.end(wait=["load"])
    # Bandwidth of a burst a cycle: fetched at 4; grants in 4, 5, 104, 105, 204, 205;
    # the last two bring 8 words from 305 on.
    assert times(b)[0] == (4, 206, 305 + 8)


@pytest.mark.parametrize(("dst", "run", "beats"), [(0, 64, 4), (8, 16, 2), (0, 1, 1), (15, 2, 2)])
def test_fill_takes_a_cycle_a_word(dst: int, run: int, beats: int):
    b = Builder()
    b.fill(dst=dst, run=run, value=7, signal=["ctl"])
    b.end(wait=["load"])
    assert times(b) == [(20, 20 + beats, 20 + beats), (20 + beats, 21 + beats, 21 + beats)]
    sram = simulate(b.program()).memories.sram[0]
    assert np.flatnonzero(sram).tolist() == list(range(dst, dst + run))


def test_fill_ends_after_the_load_before_it():
    b = Builder()
    b.load(src=0, dst=0, run=64)
    b.fill(dst=64, run=16, signal=["ctl"])
    b.end(wait=["load"])
    assert times(b) == [(30, 35, 139), (35, 36, 139), (139, 140, 140)]


def test_store_reads_before_it_asks():
    b = Builder()
    b.fill(dst=0, run=64, value=3, signal=["store"])
    b.store(src=0, dst=4096, run=64, wait=["load"], signal=["ctl"])
    b.end(wait=["store"])
    # Words in cycles 34..37; the burst in 38, as credit has gathered; written after latency.
    assert times(b) == [(30, 34, 34), (34, 39, 139), (139, 140, 140)]
    run = simulate(b.program())
    assert account(run, "store") == {"fetch": 30, "token load": 4, "busy": 5, "idle": 101}
    assert account(run, "ctl") == {"fetch": 30, "token store": 4, "bandwidth": 5, "latency": 100, "busy": 1}
    assert (run.memories.dram[4096:4160] == 3).all()


def test_layer_with_load_conv_map_store():
    b = Builder()
    image = {"src_row": 128, "src_pixel": 16, "in_h": 8, "in_w": 8}
    b.load(src=0, dst=0, run=2048, signal=["mx"])
    b.conv(
        **image, out_h=8, out_w=8, cin=16, cout=16, weights=1024, acc_pixel=64, wait=["load"], signal=["vx"]
    )
    b.map(
        source=1, src_row=512, src_pixel=64, h=8, w=8, c=16, dst=4096, dst_row=128, dst_pixel=16,
        parameters=1280, wait=["mx"], signal=["store"],
    )  # fmt: skip
    b.store(src=4096, dst=8192, run=1024, wait=["vx"], signal=["ctl"])
    b.end(wait=["store"])
    # Load: 32 bursts of 5 cycles; the last, granted in 209, brings its words in 310..313.
    # Conv: W = 256 / 32, S = 16; one tile of 16 sets of pixels, A = 1. Map: 16 + 1024 / 32.
    # Store: bursts can be asked for from 398, 402, 406, 410 on; credit gives the first three at once, the fourth
    # in 411 and the rest every 5 cycles: the 16th in 471.
    assert times(b) == [(50, 210, 314), (314, 346, 346), (346, 394, 394), (394, 472, 572), (572, 573, 573)]
    run = simulate(b.program())
    assert account(run, "mx") == {"fetch": 50, "bandwidth": 160, "latency": 104, "busy": 32, "idle": 227}
    assert run.dram_bytes == 5 * 128 + 2048 + 1024


def test_reads_of_one_bank_keep_the_beats_waiting():
    b = Builder()
    b.reduce(src=0, src_row=0, src_pixel=16, h=64, w=1, c=16, signal=["ctl"])
    b.end(wait=["vx"])
    # 64 times the same word, one a cycle from 20 on; 32 beats of two: the last with the grant in cycle 83.
    assert times(b)[0] == (20, 84, 84)
    assert account(simulate(b.program()), "vx") == {"fetch": 20, "busy": 48, "bank": 16, "idle": 1}


def test_request_goes_first_when_it_has_waited_256_cycles():
    b = Builder()
    b.reduce(src=0, src_row=0, src_pixel=16, h=1024, w=1, c=16, signal=["ctl"])
    b.fill(dst=17 * 16, run=16, signal=["ctl"])  # word 17 is in bank 1 ^ 1 = 0 too
    b.end(wait=["vx", "load"])
    # vx reads bank 0 every cycle, none of its requests older than some 32 cycles: the fill's, made in 30, is
    # granted in 286 and costs vx a cycle, so that its last is in 30 + 1024.
    assert times(b)[:2] == [(30, 1055, 1055), (30, 287, 287)]


def test_writes_come_the_cycle_after_their_beat():
    b = Builder()
    b.map(src=0, src_row=16, src_pixel=16, h=1, w=1, c=16, dst=16, dst_row=16, dst_pixel=16, signal=["ctl"])
    b.end(wait=["vx"])
    assert times(b)[0] == (20, 37, 37)  # S + B = 16 + 1


def test_writes_of_one_bank_keep_the_end_waiting():
    b = Builder()
    b.map(source=1, h=128, w=1, c=16, dst=0, dst_row=0, dst_pixel=16, parameters=4096, signal=["ctl"])
    b.end(wait=["vx"])
    # 64 beats write two words each into one bank: 128 cycles from 20 + 16 on.
    assert times(b)[0] == (20, 36 + 128, 36 + 128)
    assert account(simulate(b.program()), "vx")["bank"] == 64


def test_at_most_64_loads_are_under_way():
    target = replace(
        load_target("ommatid-1k"), dram_gb_s=6400.0, dram_latency_ns=1000.0, dram_requests_in_flight=1000
    )
    b = Builder(target)
    for n in range(70):
        b.load(src=0, dst=16 * n, run=16)
    b.end()
    # A load a cycle (of one burst and one word), until 64 of them wait for their bursts.
    found = times(b)
    assert [start for start, _, _ in found[:65]] == [*range(1, 65), 1003]
    assert found[0] == (1, 2, 1003)


def test_a_signal_behind_a_full_counter_may_deadlock():
    b = Builder()
    for n in range(17):
        b.fill(dst=16 * n, run=16, signal=["ctl"])
    b.fill(dst=4096, run=16, signal=["mx"])  # behind 17 tokens, of which ctl takes none before mx is done
    b.conv(src=4096, weights=8192, wait=["load"], signal=["ctl"])
    b.end(wait=["load", "mx"])
    with pytest.raises(Deadlock, match=r"waiting instructions: \[18, 19\]"):
        simulate(b.program())


def test_room_for_a_token_comes_the_cycle_after_it_is_taken():
    b = Builder()
    for n in range(17):
        b.fill(dst=16 * n, run=16, signal=["ctl"])
    b.store(src=4096, dst=8192, run=16, signal=["ctl"])
    for n in range(17):
        b.end(wait=["load", "store"] if n == 0 else ["load"])
    found = times(b)
    # 35 instructions: the first block at 320, the second (three) at 350. The store is done long before.
    assert [end for _, _, end in found[:15]] == list(range(321, 336))
    first = found[18][0]
    assert found[15][2] == first + 1
    assert found[16][2] == first + 2
    run = simulate(b.program())
    assert account(run, "load")["token ctl"] == first + 2 - 337


def test_a_block_is_fetched_when_it_ends_256_after_the_first_that_waits():
    def chained(fills: int) -> Builder:
        b = Builder()
        b.end(wait=["load"])
        for n in range(fills - 1):
            b.fill(dst=16 * n, run=16)
        b.fill(dst=0, run=16, signal=["ctl"])
        return b

    assert simulate(chained(255).program()).start[0] > 0
    with pytest.raises(Deadlock, match="waiting instructions"):
        simulate(chained(256).program())


def test_begin_and_end_run_a_part():
    b = Builder()
    b.fill(dst=0, run=16, value=1)
    b.fill(dst=16, run=16, value=2)
    b.end()
    run = simulate(b.program(), 1, 3)
    assert (len(run.start), run.cycles) == (2, 21)
    assert run.memories.sram[0][:32].tolist() == [0] * 16 + [2] * 16
    again = simulate(b.program(), 0, 1, memories=run.memories)
    assert again.memories.sram[0][:32].tolist() == [1] * 16 + [2] * 16
    assert run.memories.sram[0][0] == 0


# --- several cores: 34.1 bytes a cycle; two instructions are fetched at 8, three at 12 ----------------------


def test_token_takes_8_cycles_to_another_core():
    b = Builder("ommatid-4k")
    b.fill(dst=0, run=16, signal=[(1, "ctl"), (0, "ctl")])
    b.end(core=1, wait=[(0, "load")])
    b.end(core=0, wait=["load"])
    assert times(b) == [(12, 13, 13), (21, 22, 22), (13, 14, 14)]
    assert account(simulate(b.program()), "ctl", 1) == {"fetch": 12, "token load": 9, "busy": 1}


def test_send_writes_another_core():
    b = Builder("ommatid-4k")
    b.fill(dst=0, run=64, value=9, signal=["store"])
    b.send(src=0, dst=128, run=64, peer=2, wait=["load"], signal=["ctl"])
    b.end(wait=["store"])
    # Beats in 16..19: free at 20, ends 8 cycles later.
    assert times(b) == [(12, 16, 16), (16, 20, 28), (28, 29, 29)]
    srams = simulate(b.program()).memories.sram
    assert (srams[2][128:192] == 9).all()
    assert [int(s.astype(int).sum()) for s in srams] == [9 * 64, 0, 9 * 64, 0]


def test_send_waits_for_banks_of_its_peer():
    b = Builder("ommatid-4k")
    b.send(src=0, dst=17 * 16, run=16, peer=1, signal=["ctl"])  # bank 0 of core 1, that vx reads every cycle
    b.reduce(core=1, src=0, src_row=0, src_pixel=16, h=64, w=1, c=16)
    b.end(wait=["store"])
    # Beat in 12; its write is requested in 13, and granted when vx has read its 64 words: in 76.
    assert times(b)[:2] == [(12, 13, 77), (12, 76, 76)]


def test_multicast_reads_once_and_writes_all():
    b = Builder("ommatid-4k", constants=bytes(range(1, 65)))
    b.load(src=0, dst=0, run=64, multicast=0b1010, signal=["ctl"])
    b.end(wait=["load"])
    # Eight cycles bring 272.8 bytes for 256: 16.8 left; granted in 9 (85.0), words in 110..113.
    # The port holds the engine for four cycles.
    assert times(b)[0] == (8, 12, 114)
    run = simulate(b.program())
    assert run.dram_bytes == 256 + 64
    for core, sram in enumerate(run.memories.sram):
        assert sram[:64].tolist() == (list(range(1, 65)) if core != 2 else [0] * 64)


def test_multicast_waits_for_the_slowest_core():
    b = Builder("ommatid-4k")
    b.load(src=0, dst=17 * 16, run=16, multicast=0b10)
    b.reduce(core=1, src=0, src_row=0, src_pixel=16, h=256, w=1, c=16)
    b.end()
    # 12 cycles bring 409.2 bytes for 384: 25.2 left; granted in 13, the word is requested in 114. Core 1's vx reads
    # its bank until 267.
    assert times(b)[:2] == [(12, 14, 269), (12, 268, 268)]


def test_bursts_are_granted_in_turn():
    b = Builder("ommatid-4k")
    for core in range(4):
        b.load(core=core, src=0, dst=0, run=640)
    b.end()
    found = times(b)
    released = [r for _, r, _ in found[:4]]
    assert released == sorted(released)
    assert released[3] - released[0] <= 6  # three bursts


def random_fields(draw: random.Random, kind: str, cores: int) -> dict[str, int]:
    """Fields of an instruction of some hundred cycles, anywhere in the first 64 KiB."""
    fields: dict[str, int] = {}
    for field in BY_MNEMONIC[kind].fields:
        if field.unit.endswith("byte address") and field.name != "acc":
            fields[field.name] = draw.randrange(2000) * 16 + (
                5 if field.step == 1 and draw.random() < 0.5 else 0
            )
        elif field.name in ("c", "cin", "cout"):
            fields[field.name] = draw.randrange(1, 70)
        elif field.low == 1 and field.high is None:
            fields[field.name] = draw.randrange(1, 300 if field.name == "run" else 5)
        elif field.name.endswith(("_s0", "_s1", "_s2", "_s3", "_row", "_pixel")):
            fields[field.name] = draw.choice([16, 64, 256, 272, 100])
        elif field.name in ("multicast", "peer"):
            fields[field.name] = draw.randrange(cores)
    return fields | ({"acc_pixel": 64} if kind in ("conv", "dwconv") else {})


def random_builder(seed: int) -> Builder:
    """Instructions of all engines with a few tokens; they race, which time does not mind."""
    draw = random.Random(seed)
    target = replace(
        load_target(("ommatid-256", "ommatid-1k", "ommatid-4k")[seed % 3]),
        dram_gb_s=draw.choice([1.0, 34.1, 300.0]),
        dram_latency_ns=draw.choice([0.0, 100.0]),
        dram_requests_in_flight=draw.choice([1, 8]),
    )
    kinds = ("load", "fill", "store", "send", "conv", "dwconv", "map", "pool", "reduce", "copy")
    planned: list[tuple[str, tuple[int, str]]] = []
    waits: list[list[tuple[int, str]]] = []
    signals: list[list[tuple[int, str]]] = []
    last: dict[tuple[tuple[int, str], tuple[int, str]], int] = {}  # signal of a pair of queues
    for index in range(45):
        kind = draw.choice(kinds)
        queue = (draw.randrange(target.cores), BY_MNEMONIC[kind].engine.name.lower())
        waits.append([])
        signals.append([])
        for before, (_, producer) in enumerate(planned):
            fits = (
                producer != queue
                and producer not in waits[index]
                and last.get((producer, queue), -1) < before
            )
            if fits and draw.random() < 0.1:
                waits[index].append(producer)
                signals[before].append(queue)
                last[producer, queue] = before
        planned.append((kind, queue))
    b = Builder(target)
    for (kind, (core, _)), wait, signal in zip(planned, waits, signals, strict=True):
        b.emit(kind, core=core, wait=wait, signal=signal, **random_fields(draw, kind, target.cores))
    return b


@pytest.mark.parametrize("seed", range(12))
def test_random_programs_stepped_and_skipped_alike(seed: int):
    times(random_builder(seed))
