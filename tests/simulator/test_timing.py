"""Cycle counts of small programs, each derived by hand from the rules of docs/isa.md, section "Time".

On ommatid-1k: DRAM 12.8 B a cycle, latency 100 cycles, bursts of 64 B; an instruction is 128 B, so fetching
n <= 32 instructions takes 10 n cycles before any starts.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ommatid.isa.instructions import Engine
from ommatid.isa.program import Program
from ommatid.isa.target import load_target
from ommatid.simulator import events, reference
from ommatid.simulator.functional import Machine
from ommatid.simulator.state import fresh, prepare
from ommatid.simulator.timing import EngineTime, SimulationError, Timing, simulate
from tests.isa.builder import Builder


def account(timing: Timing, engine: str, core: int = 0) -> EngineTime:
    return next(e for e in timing.engines if (e.core, e.engine) == (core, engine))


def stalls(timing: Timing, engine: str) -> dict[str, int]:
    """An engine's stalls that are not zero."""
    return {cause: cycles for cause, cycles in account(timing, engine).stall_cycles.items() if cycles}


def check_accounts(timing: Timing) -> None:
    """Busy, stalled and idle cycles of every engine make up the run."""
    for engine in timing.engines:
        parts = [engine.busy_cycles, engine.idle_cycles, *engine.stall_cycles.values()]
        assert min(parts) >= 0
        assert sum(parts) == timing.cycles


def test_load_takes_bandwidth_then_latency() -> None:
    b = Builder()
    b.load(run=1280)
    timing = simulate(b.program())
    # fetch 128 / 12.8 = 10; data 1280 / 12.8 = 100, the engine is free; the last burst arrives 100 later: 4 words
    assert [timing.start[0], timing.released[0], timing.finish[0]] == [10, 110, 214]
    assert timing.cycles == 214
    assert timing.dram_bytes == 1280 + 128
    # with full credit, a burst and a cycle's bytes, it would take 6 cycles less
    assert stalls(timing, "load") == {"fetch": 10, "bandwidth": 6}
    assert (account(timing, "load").busy_cycles, account(timing, "load").port_bytes) == (94, 1280)
    check_accounts(timing)


def test_partial_bursts_cost_whole_ones() -> None:
    b = Builder()
    b.load(src=60, run=8, n1=10, src_s1=128, dst_s1=8)
    # each run of 8 bytes lies over a burst's edge: 10 runs x 2 bursts x 64 B = 1280 B, as above; the last has one word
    timing = simulate(b.program())
    assert timing.cycles == 211
    assert timing.dram_bytes == 1280 + 128


def test_requests_in_flight_limit_one_dma() -> None:
    b = Builder(replace(load_target(), dram_requests_in_flight=10))
    b.load(run=1280)
    # fetch 10; 10 of 20 bursts in 50 cycles, then the first place is free 100 after its grant: 50 more; latency 100, 4 words
    assert simulate(b.program()).cycles == 10 + 100 + 50 + 100 + 4


def test_fill_uses_the_port_and_no_dram() -> None:
    b = Builder()
    b.fill(run=50, n1=3, dst_s1=64)
    timing = simulate(b.program())
    # fetch 10; each run is 4 words of 16 B, one a cycle: 3 x 4
    assert timing.cycles == 10 + 12
    assert timing.dram_bytes == 128


def test_chain_by_tokens() -> None:
    b = Builder()
    b.load(run=1280, signal=["mx"])
    b.conv(
        in_h=8, in_w=10, out_h=8, out_w=10, cin=16, cout=16, src_row=160, src_pixel=16, acc_pixel=64,
        weights=4096, wait=["load"], signal=["vx"],
    )  # fmt: skip
    b.map(
        h=8, w=10, c=16, source=1, src_row=640, src_pixel=64, dst=8192, dst_row=160, dst_pixel=16,
        parameters=2048, wait=["mx"], signal=["store"],
    )  # fmt: skip
    b.store(src=8192, dst=65536, run=1280, wait=["vx"], signal=["ctl"])
    b.end(wait=["store"])
    timing = simulate(b.program())
    # fetch 5 x 10 = 50
    # load: 100 cycles of data from 50, arrived at 250, written at 254
    # conv: 1 tile, 80 pixels by 4 = 20 (over 256 B of weights by 32 = 8), + 8 weights + 8 pipeline = 36
    # map: 80 x 16 elements by 32 = 40, + 16 to start = 56
    # store: 4 cycles until the first burst's words are read, 6 less by the credit, 100 of data, 100 until written; end: 1
    assert timing.start.tolist() == [50, 254, 290, 346, 544]
    assert timing.released.tolist() == [150, 290, 346, 444, 545]
    assert timing.finish.tolist() == [254, 290, 346, 544, 545]
    assert timing.cycles == 545
    assert account(timing, "mx").macs == 80 * 16 * 16
    # mx waits for bytes that move until 150, then for their arrival; vx for mx; ctl for the store, then its bytes
    assert stalls(timing, "mx") == {"bandwidth": 100, "latency": 104, "fetch": 50}
    assert stalls(timing, "vx") == {"token_mx": 240, "fetch": 50}
    assert stalls(timing, "ctl") == {"token_store": 296, "bandwidth": 98, "latency": 100, "fetch": 50}
    assert account(timing, "mx").idle_cycles == 545 - 290
    check_accounts(timing)


def test_two_dmas_share_the_bandwidth() -> None:
    b = Builder()
    b.load(run=1280)
    b.store(dst=65536, run=640)
    timing = simulate(b.program())
    # from 20 on 6.4 B a cycle each: the store's 640 B take 100; then the load has 640 B left at 12.8: 50
    assert timing.start.tolist() == [20, 20]
    assert timing.released.tolist() == [170, 120]
    assert timing.finish.tolist() == [274, 220]
    assert timing.overlap_cycles(Engine.LOAD, Engine.STORE) == 100
    check_accounts(timing)


def test_what_one_dma_cannot_use_the_other_gets() -> None:
    # 24 B a cycle (latency 0 leaves the requests without effect); fetch 3 x 128 / 24 = 16
    b = Builder(replace(load_target(), dram_gb_s=24.0, dram_latency_ns=0.0, port_load_bytes_per_cycle=8))
    b.load(run=800)
    b.store(dst=65536, run=1600)
    b.end()
    timing = simulate(b.program())
    # both ask for bursts, 12 B a cycle each: the load's 832 B have moved in 70, its port holds it for 100; the store
    # has 24 B a cycle for the other 768, and so its last word, read after 100, and its last burst 2 cycles later: 118
    assert timing.start.tolist() == [16, 16, 16]
    assert timing.released.tolist() == [116, 118, 17]


def test_engine_free_before_its_data_arrived_takes_the_next() -> None:
    b = Builder()
    b.load(run=1280)
    b.load(run=640)
    timing = simulate(b.program())
    # fetch 20; the second load's 50 cycles of data follow the first's 100 without a gap
    assert timing.start.tolist() == [20, 120]
    assert timing.finish.tolist() == [224, 274]


def test_instructions_are_fetched_in_blocks() -> None:
    b = Builder()
    for _ in range(40):
        b.end()
    timing = simulate(b.program())
    # 32 instructions by 320, 8 more by 400; an end takes 1
    assert timing.start.tolist() == [320 + i for i in range(32)] + [400 + i for i in range(8)]
    assert timing.cycles == 408
    assert stalls(timing, "ctl") == {"fetch": 320 + 48}
    check_accounts(timing)


def test_the_fetcher_stays_near_the_first_instruction_that_waits() -> None:
    b = Builder()
    b.load(run=128 * 1024, signal=["mx"])
    b.conv(wait=["load"])
    for _ in range(398):
        b.end()
    timing = simulate(b.program())
    # blocks are fetched up to instruction 255; the next would end more than 256 beyond the conv, which waits
    assert timing.start[1] == timing.finish[0]
    assert timing.start[255] < timing.start[1] <= timing.start[256]
    check_accounts(timing)


def test_where_banks_do_not_suffice_the_array_goes_first() -> None:
    b = Builder(replace(load_target(), sram_banks=8))
    b.conv(
        in_h=32,
        in_w=32,
        out_h=32,
        out_w=32,
        cin=16,
        cout=16,
        src_row=512,
        src_pixel=16,
        weights=32768,
        acc_pixel=64,
    )
    b.map(h=64, w=32, c=16, src=65536, src_row=512, src_pixel=16, binary=1, operand_c=1, operand=131072,
          operand_row=512, operand_pixel=16, dst=196608, dst_row=512, dst_pixel=16)  # fmt: skip
    timing = simulate(b.program())
    # of 8 words a cycle the conv asks for about 4 and the map, 4 read and 2 written, for 6: beside the conv it goes at two thirds
    mx, vx = (timing.released[i] - timing.start[i] for i in (0, 1))
    assert mx == 256 + 8 + 8 and stalls(timing, "mx").keys() <= {"fetch"}
    assert 1024 + 16 + 60 < vx < 1024 + 16 + 120
    assert stalls(timing, "vx")["bank"] == vx - (1024 + 16)
    check_accounts(timing)


@pytest.mark.parametrize("banks, mnemonic", [(8, "fill"), (4, "fill"), (8, "store")])
def test_who_is_last_at_the_banks_gets_what_is_left_or_a_sixteenth(banks: int, mnemonic: str) -> None:
    b = Builder(replace(load_target(), sram_banks=banks))
    b.conv(in_h=32, in_w=32, out_h=32, out_w=32, cin=16, cout=16, src_row=512, src_pixel=16, weights=32768,
           acc_pixel=64)  # fmt: skip
    b.map(h=64, w=32, c=16, src=65536, src_row=512, src_pixel=16, binary=1, operand_c=1, operand=131072,
          operand_row=512, operand_pixel=16, dst=196608, dst_row=512, dst_pixel=16)  # fmt: skip
    b.emit(mnemonic, **{"src" if mnemonic == "store" else "dst": 400000}, run=1024)
    # 64 words: of 8 banks nothing is left beside conv and map, which end after 272 cycles and 1120; of 4 for long after
    timing, judge = simulate(b.program()), reference.simulate(b.program())
    fast, stepped = (int(run.released[2] - run.start[2]) for run in (timing, judge))
    assert stepped > 256 and abs(fast - stepped) <= 0.08 * stepped
    check_accounts(timing)


def test_engines_that_share_banks_may_end_together() -> None:
    # one asks 4 banks for 1040 words in 272 cycles; that leaves 48 of 4 * 272, which the other takes
    none = np.zeros(2, np.uint32)
    cost, words = np.array([272, 48]), np.array([1040 / 272, 1])
    work = prepare(np.array([Engine.MX, Engine.LOAD]), none, none, cost=cost, pace=cost, words=words)
    events.run(work, fresh(work, 12.8, 64, 4))
    assert work["released"] == pytest.approx([20 + 272, 20 + 272])


def test_token_between_cores_takes_8_cycles() -> None:
    b = Builder(replace(load_target(), cores=2))
    b.end(signal=[(1, "ctl")])
    b.end(core=1, wait=[(0, "ctl")])
    timing = simulate(b.program())
    # fetch 20; 1 cycle; 8 on the way; 1 cycle
    assert timing.start.tolist() == [20, 29]
    assert timing.cycles == 30
    check_accounts(timing)


def test_missing_token_is_an_error() -> None:
    b = Builder()
    b.end()
    b.conv(wait=["load"])
    with pytest.raises(SimulationError, match=r"instruction 1 \(conv\) waits for a token"):
        simulate(b.program())


def test_circular_wait_is_an_error() -> None:
    b = Builder()
    b.conv(wait=["vx"], signal=["vx"])
    b.map(wait=["mx"], signal=["mx"])
    with pytest.raises(SimulationError):
        simulate(b.program())


def test_a_sixteenth_token_stalls() -> None:
    b = Builder()
    for _ in range(15):
        b.fill(signal=["mx"])
    assert simulate(b.program()).cycles == 150 + 15  # fetch, then a cycle each
    b.fill(signal=["mx"])
    with pytest.raises(SimulationError, match="instruction 15"):
        simulate(b.program())


def test_a_token_that_waits_for_room_is_put_when_one_is_taken() -> None:
    b = Builder()
    image = {
        "in_h": 32,
        "in_w": 32,
        "out_h": 32,
        "out_w": 32,
        "cin": 16,
        "cout": 16,
        "src_row": 512,
        "src_pixel": 16,
    }
    b.conv(**image, weights=32768, acc_pixel=64)
    for _ in range(17):
        b.fill(dst=65536, signal=["mx"])
    for _ in range(17):
        b.conv(wait=["load"])
    timing, judge = simulate(b.program()), reference.simulate(b.program())
    # 15 tokens find room at once; the others when convs start, after 272 cycles and then one after the other
    assert timing.finish[15] < timing.start[18] <= timing.finish[16] < timing.start[19] <= timing.finish[17]
    np.testing.assert_allclose(timing.finish[16:], judge.end[16:], atol=1)


def test_an_engine_without_room_for_its_token_is_not_idle() -> None:
    b = Builder()
    b.load(run=16384, signal=["mx"])
    for _ in range(17):
        b.copy(dst=65536, n0=16, src_s0=1, dst_s0=1, signal=["mx"])
    b.conv(wait=["load", "vx"])
    b.conv(wait=["vx"])
    timing = simulate(b.program())
    last, before = timing.start[17], timing.released[16]
    assert stalls(timing, "vx") == {"fetch": timing.start[1], "token_mx": last - before}
    assert account(timing, "vx").idle_cycles == timing.cycles - timing.released[17]


PIECES, PIECE = 8, 640


def pipeline() -> Program:
    """Eight pieces of DRAM through load, copy and store, with two buffers on each side, then end."""
    b = Builder(constants=np.random.default_rng(0).integers(0, 256, PIECES * PIECE, np.uint8).tobytes())
    for i in range(PIECES):
        again, last = i >= 2, i >= PIECES - 2
        piece, buffer, out = i * PIECE, i % 2 * PIECE, 8192 + i % 2 * PIECE
        b.load(src=piece, dst=buffer, run=PIECE, wait=["vx"] * again, signal=["vx"])
        b.copy(
            src=buffer, dst=out, n0=PIECE, src_s0=1, dst_s0=1, wait=["load", *["store"] * again],
            signal=["store", *["load"] * (not last)],
        )  # fmt: skip
        signal = ["ctl"] if i == PIECES - 1 else ["vx"] * (not last)
        b.store(src=out, dst=65536 + piece, run=PIECE, wait=["vx"], signal=signal)
    b.end(wait=["store"])
    return b.program()


def check_order(program: Program, order: list[int]) -> None:
    """A permutation in which every queue keeps its order, and running in it gives the program's result."""
    assert sorted(order) == list(range(len(program.instructions)))
    opcode = program.instructions["opcode"]
    for op in np.unique(opcode):
        mine = [i for i in order if opcode[i] == op]
        assert mine == sorted(mine)
    machine = Machine(program)
    machine.run(0, len(order), order)
    data = machine.dram[65536 : 65536 + PIECES * PIECE]
    np.testing.assert_array_equal(data, program.constants)


def test_pipeline_overlaps() -> None:
    program = pipeline()
    timing = simulate(program)
    check_order(program, timing.order())
    check_accounts(timing)
    assert timing.order() != list(range(len(program.instructions)))
    assert timing.overlap_cycles(Engine.LOAD, Engine.STORE) > 0
    # every byte moves twice, and the fetcher's with them: no faster than the DRAM
    assert timing.cycles >= (2 * PIECES * PIECE + 128 * len(program.instructions)) / 12.8
    assert account(timing, "vx").busy_cycles == PIECES * (PIECE // 32 + 16)


def test_same_cycles_twice() -> None:
    program = pipeline()
    first, second = simulate(program), simulate(program)
    for name in ("start", "released", "finish"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert (first.cycles, first.engines) == (second.cycles, second.engines)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 100, 5000]))
def test_delays_leave_the_order_legal(seed: int, most: int) -> None:
    program = pipeline()
    rng = np.random.default_rng(seed)
    delays = rng.integers(0, most, len(program.instructions)) * (rng.random(len(program.instructions)) < 0.5)
    timing = simulate(program, delays=delays)
    check_order(program, timing.order())
    check_accounts(timing)


def test_a_part_of_a_program() -> None:
    b = Builder()
    b.end()
    b.load(run=1280)
    b.end()
    timing = simulate(b.program(), begin=1, end=2)
    assert (timing.begin, timing.cycles, timing.order()) == (1, 214, [1])
