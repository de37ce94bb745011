"""Who waits for whom at banks, ports and the DRAM: small programs whose times the reference machine gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ommatid.isa.cost import cost_cycles
from ommatid.simulator import reference
from ommatid.simulator.timing import simulate
from tests.isa.builder import Builder

#: A row of pixels at a pitch of 8.5 words: those of neighbours lie in few banks.
PITCH = 136


def held(b: Builder, i: int) -> tuple[int, int]:
    """Cycles for which instruction ``i`` holds its engine: of the fast executor, of the reference machine."""
    program = b.program()
    fast, judge = simulate(program), reference.simulate(program)
    return int(fast.released[i] - fast.start[i]), int(judge.released[i] - judge.start[i])


def both(b: Builder) -> tuple[list[list[int]], list[list[int]]]:
    """Start, release and end of each instruction, on the fast executor and on the reference machine."""
    program = b.program()
    fast, judge = simulate(program), reference.simulate(program)
    return (
        [fast.start.tolist(), fast.released.tolist(), fast.finish.tolist()],
        [judge.start.tolist(), judge.released.tolist(), judge.end.tolist()],
    )


def within(fast: list[list[int]], judge: list[list[int]]) -> int:
    """The greatest difference of two such."""
    return int(np.abs(np.array(fast) - np.array(judge)).max())


def depthwise(b: Builder, src: int, **more: int) -> int:
    """A 3 x 3 depthwise convolution of 14 x 28 pixels whose own words crowd."""
    return b.dwconv(
        src=src, src_row=28 * PITCH, src_pixel=PITCH, in_h=14, in_w=28, out_h=14, out_w=28, kh=3, kw=3, pad_top=1,
        pad_left=1, c=16, weights=130304, weights_tap=16, acc_pixel=64, **more,
    )  # fmt: skip


@pytest.mark.parametrize("src", [835328, 884864])
def test_words_of_a_depthwise_convolution_crowd_in_few_banks(src: int) -> None:
    b = Builder()
    i = depthwise(b, src)
    fast, judge = held(b, i)
    assert judge > 525 > 14 * 4 * 3 * 3 + 16  # S + B: 520
    assert abs(fast - judge) <= 2


@pytest.mark.parametrize("target", ["ommatid-256", "ommatid-1k", "ommatid-4k"])
@pytest.mark.parametrize("bursts", [1, 2, 7, 20])
def test_credit_after_a_pause_and_the_words_of_the_last_burst(target: str, bursts: int) -> None:
    b = Builder(target)
    b.load(run=64 * bursts, signal=["mx"])
    b.conv(in_h=8, in_w=8, out_h=8, out_w=8, cin=16, cout=16, src_row=128, src_pixel=16, acc_pixel=64,
           weights=4096, wait=["load"], signal=["load", "store"])  # fmt: skip
    b.load(run=64 * bursts, wait=["mx"], signal=["store"])  # a pause: the DRAM has credit
    b.load(run=64 * bursts)  # none
    b.store(dst=1 << 16, run=64 * bursts, wait=["mx", "load"])
    fast, judge = both(b)
    assert within(fast[:1], judge[:1]) <= 1
    assert within(fast, judge) <= 64 / b.target.dram_bytes_per_cycle  # whose turn it is: a burst


def test_a_client_has_its_turn_before_the_others_round_is_over() -> None:
    b = Builder("ommatid-256")
    b.load(run=640)
    b.store(dst=1 << 16, src=8192, run=64)
    fast, judge = both(b)
    assert within(fast, judge) <= 5


def test_clients_that_begin_while_another_uses_all_of_the_dram_have_their_turns_at_once() -> None:
    errors = []
    for rows in range(40, 200, 11):  # so the store begins in any phase of the load's bursts
        b = Builder("ommatid-256")
        b.load(run=16384)
        b.reduce(h=rows, w=1, c=16, src_row=16, src_pixel=16, signal=["store"])
        i = b.store(dst=1 << 16, src=32768, run=64, wait=["vx"])
        fast, judge = held(b, i)
        errors.append(fast - judge)
    assert abs(np.mean(errors)) <= 4  # a burst takes 10


def test_a_load_that_leaves_its_engine_is_not_another_cores() -> None:
    b = Builder("ommatid-4k")
    for core, run in ((0, 640), (1, 8192), (2, 16384), (3, 16384)):  # all share the DRAM, 0 and 1 a port
        b.load(core=core, src=core << 16, dst=core << 16, run=run, multicast=3 if core < 2 else 0)
    b.load(core=0, src=1 << 18, dst=1 << 18, run=4096, multicast=3)
    fast, judge = both(b)
    assert within(fast, judge) <= 8


@pytest.mark.parametrize("lengths", [(1024, 1024), (4096, 640), (640, 4096)])
def test_loads_of_two_cores_share_a_port(lengths: tuple[int, int]) -> None:
    b = Builder("ommatid-4k")
    for core, run in enumerate(lengths):
        b.load(core=core, run=run, dst=core << 16, multicast=3)
        b.load(core=core, run=640, dst=(core << 16) + 8192, multicast=3, signal=[(0, "ctl")])
    b.end(wait=["load", (1, "load")])
    fast, judge = both(b)
    ends = np.array(judge[2])[:-1] - np.array(judge[1])[:-1]
    assert ends.max() > 130  # a latency of 100: words wait
    assert max(fast[2][:-1]) == pytest.approx(max(judge[2][:-1]), abs=4)
    assert within(fast, judge) <= 40  # the first ones: oldest first is not quite an equal share


@pytest.mark.parametrize("size", [48, 512, 4096])
def test_a_fill_shares_the_port_with_words_that_arrive(size: int) -> None:
    b = Builder("ommatid-4k")
    b.load(run=8192)
    b.fill(dst=1 << 16, run=size, signal=["ctl"])
    b.end(wait=["load"])
    fast, judge = both(b)
    assert within(fast[:2], judge[:2]) <= 2
    assert within(fast, judge) <= 16  # the load's end: of the words that go first


@pytest.mark.parametrize("src", [835328, 884864, 819648])  # the last one waits for no bank itself
@pytest.mark.parametrize("c", [16, 48])
@pytest.mark.parametrize("before", [0, 2, 5])
def test_a_map_starves_at_the_banks_that_a_crowded_convolution_holds(src: int, c: int, before: int) -> None:
    b = Builder()
    image = {"src_row": 28 * PITCH, "src_pixel": PITCH, "dst_row": 28 * PITCH, "dst_pixel": PITCH, "w": 14}
    for _ in range(before):  # so the last one begins in another phase
        b.map(src=200000, dst=500000, h=2, c=16, **image)
    depthwise(b, src)
    last = b.map(src=200000, dst=500000, h=14, c=c, **image)
    fast, judge = both(b)
    assert judge[1][last] - judge[0][last] > 1.3 * cost_cycles(b.stream(), b.target)[last]
    assert within(fast, judge) <= 4


def test_a_map_longer_than_what_is_stepped_starves_while_a_crowded_convolution_runs() -> None:
    b = Builder()
    depthwise(b, 884864)
    i = b.map(src=200000, dst=500000, h=300, w=28, c=16, src_pixel=16, src_row=0, dst_pixel=16, dst_row=0)
    fast, judge = held(b, i)
    assert judge > 200 + cost_cycles(b.stream(), b.target)[i] > 2 * 2048
    assert abs(fast - judge) <= 0.01 * judge


def crowded_convolution(b: Builder, **more: Any) -> int:
    """A convolution whose own words crowd: it holds some banks nearly always."""
    return b.conv(
        src=0, src_row=28 * PITCH, src_pixel=PITCH, in_h=14, in_w=28, out_h=14, out_w=28, kh=3, kw=3, pad_top=1,
        pad_left=1, cin=16, cout=32, weights=130304, acc_pixel=128, **more,
    )  # fmt: skip


@pytest.mark.parametrize("target", ["ommatid-1k", "ommatid-4k"])
@pytest.mark.parametrize("count", [1, 3])
def test_words_of_loads_starve_at_the_banks_that_a_crowded_convolution_holds(target: str, count: int) -> None:
    b = Builder(target)
    crowded_convolution(b)
    for n in range(count):  # those of one queue wait behind each other
        b.load(run=4096, src=n << 12, dst=524288 + (n << 12), signal=["ctl"])
    b.end(wait=["load"])
    fast, judge = both(b)
    late = max(np.array(judge[2]) - np.array(judge[1]))
    assert late > 200 + b.target.dram_latency_cycles
    assert within(fast, judge) <= 8


@pytest.mark.parametrize("run", [1024, 8192])
def test_words_of_a_store_starve_there(run: int) -> None:
    alone, b = Builder(), Builder()
    crowded_convolution(b)
    i = [each.store(src=524288, dst=1 << 16, run=run) for each in (alone, b)][1]
    fast, judge = held(b, i)
    assert judge > 30 + held(alone, 0)[1]
    assert abs(fast - judge) <= 0.02 * judge + 8


def test_words_of_a_load_starve_at_the_banks_that_a_crowded_map_holds() -> None:
    b = Builder("ommatid-4k")
    image = {"src_pixel": 272, "src_row": 0, "dst_pixel": 272, "dst_row": 0}
    b.map(src=0, dst=131072, h=8, w=256, c=16, **image)
    b.load(run=4096, dst=524288, signal=["ctl"])
    b.end(wait=["load"])
    fast, judge = both(b)
    assert judge[2][1] - judge[1][1] > 150 + b.target.dram_latency_cycles
    assert within(fast, judge) <= 16


@pytest.mark.parametrize("senders", [1, 2, 3])
@pytest.mark.parametrize("run", [16, 8, 24])
def test_sends_share_a_peer_port(senders: int, run: int) -> None:
    b = Builder("ommatid-4k")
    for core in range(1, 1 + senders):
        dst = core << 16
        first = b.send(core=core, peer=0, run=run, n1=200 + 40 * core, src_s1=32, dst=dst, dst_s1=32)
        b.send(core=core, peer=0, run=4096, dst=dst + 16384)
    b.send(core=3, peer=2, run=4096)  # over another port
    fast, judge = both(b)
    assert judge[1][first] >= 280 * senders * 0.8
    assert within(fast, judge) <= 16


@pytest.mark.parametrize("peer", [0, 1, 3])
def test_sends_beside_words_that_crowd(peer: int) -> None:
    b = Builder("ommatid-4k")
    b.copy(core=peer, src=964800, dst=911488, src_s0=68, src_s1=1, src_s2=272, dst_s0=1, dst_s1=4, dst_s2=272,
           n0=4, n1=68, n2=31)  # fmt: skip
    depthwise(b, 835328, core=0)
    for core in (0, 2):
        for k in range(3):
            b.send(core=core, peer=peer, src=k << 14, dst=(4 + 4 * core + k) << 14, run=3808)
    fast, judge = both(b)
    slower = sum(judge[1][i] - judge[0][i] for i in range(2, 8)) - 6 * 238
    assert slower > 100
    assert within(fast, judge) <= 16
