"""Tokens: they order every conflict, none is superfluous, and no counter overflows; by brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings

from ommatid.compiler.tokens import add_tokens
from ommatid.isa.instructions import Engine, queues
from ommatid.isa.program import Partition, Program
from ommatid.isa.verifier import verify
from tests.isa.builder import Builder
from tests.isa.orders import (
    conflict,
    happens_before,
    queue_numbers,
    random_orders,
    token_pairs,
    touched_words,
)
from tests.simulator.programs import random_program


def with_tokens(program: Program) -> Program:
    add_tokens(program.instructions, program.target, len(program.constants))
    return program


def required(program: Program) -> list[tuple[int, int]]:
    """Pairs that must be ordered: conflicts of a partition, and its end after all of it."""
    words, queue = touched_words(program), queue_numbers(program)
    begin = [0] + [i + 1 for i, q in enumerate(queue) if q == Engine.CTL]
    return [
        (i, j)
        for i, j in combinations(range(len(words)), 2)
        if i >= max(b for b in begin if b <= j) and (conflict(words[i], words[j]) or queue[j] == Engine.CTL)
    ]


def are_ordered(program: Program, pairs: list[tuple[int, int]], edges: list[tuple[int, int]]) -> bool:
    before = happens_before(program, edges)
    return all(before[pair] for pair in pairs)


def most_held(program: Program) -> int:
    """The most tokens that a counter holds when instructions run one at a time."""
    queue, stream, most = queue_numbers(program), program.instructions, 0
    held = np.zeros((5, 5), int)
    for i, q in enumerate(queue):
        for other in range(5):
            held[other, q] -= int(stream["wait"][i]) >> other & 1
            held[q, other] += int(stream["signal"][i]) >> other & 1
        assert held.min() >= 0
        most = max(most, int(held.max()))
    assert held.max() == 0
    return most


@settings(deadline=None, max_examples=40)
@given(random_orders(least=2, most=12))
def test_every_conflict_is_ordered_and_no_token_is_superfluous(program: Program) -> None:
    with_tokens(program)
    edges, starved, left = token_pairs(program)
    assert not starved and not left
    pairs = required(program)
    assert are_ordered(program, pairs, edges)
    for k in range(len(edges)):
        assert not are_ordered(program, pairs, edges[:k] + edges[k + 1 :])


@settings(deadline=None, max_examples=15)
@given(random_orders(least=40, most=60))
def test_the_verifier_agrees_on_longer_programs(program: Program) -> None:
    problems = verify(with_tokens(program))
    assert [p for p in problems if "nothing has written" not in p] == []
    assert most_held(program) <= 15


def in_flight(count: int) -> Program:
    """``count`` fills, then as many stores of what each wrote: as many tokens in one counter."""
    b = Builder("ommatid-256", dram_bytes=1 << 16)
    for k in range(count):
        b.fill(dst=64 * k, run=1)
    for k in range(count):
        b.store(src=64 * k, dst=64 * k, run=1)
    b.end()
    return with_tokens(b.program())


@pytest.mark.parametrize("count, tokens", [(14, 14), (15, 15), (16, 15), (60, 15)])
def test_no_counter_holds_more_than_fifteen(count: int, tokens: int) -> None:
    program = in_flight(count)
    edges, _, _ = token_pairs(program)
    assert sum(queue_numbers(program)[i] == Engine.LOAD for i, _ in edges) == most_held(program) == tokens
    assert are_ordered(program, required(program), edges) and verify(program) == []


def test_one_token_for_what_others_imply() -> None:
    b = Builder("ommatid-256", dram_bytes=1 << 16)
    b.fill(dst=0, run=16)
    b.copy(src=0, dst=64)
    b.store(src=64, dst=0, run=1)
    b.store(src=0, dst=64, run=1)  # the fill is over, as the copy waited for it
    b.end()
    program = with_tokens(b.program())
    assert token_pairs(program)[0] == [(0, 1), (3, 4), (1, 2)]


def test_tokens_stay_in_their_partition() -> None:
    b = Builder("ommatid-256", dram_bytes=1 << 16)
    b.fill(dst=0, run=16)
    b.end()
    b.store(src=0, dst=0, run=16)
    b.end()
    program = with_tokens(b.program())
    program.partitions = (Partition("npu", (), (), 0, 2), Partition("npu", (), (), 2, 4))
    assert token_pairs(program)[0] == [(0, 1), (2, 3)]
    assert verify(program) == []


def test_constants_need_no_token() -> None:
    b = Builder("ommatid-256", bytes(64), dram_bytes=1 << 16)
    b.store(src=0, dst=64, run=16)
    b.load(src=0, dst=64, run=64)
    b.load(src=64, dst=128, run=16)
    b.end()
    edges, _, _ = token_pairs(with_tokens(b.program()))
    assert edges == [(2, 3), (0, 2)]


@pytest.mark.parametrize("seed", range(12))
def test_tokens_of_several_cores_and_each_is_needed(seed: int) -> None:
    program = random_program(seed, "ommatid-4k")
    program.instructions["wait"] = program.instructions["signal"] = 0
    with_tokens(program)
    assert verify(program) == []
    masks = program.instructions[["wait", "signal"]].copy()
    queue = queues(program.instructions)
    for producer, consumer in {(int(a), int(b)) for a in np.unique(queue) for b in np.unique(queue)}:
        waits = np.flatnonzero((queue == consumer) & (masks["wait"] >> producer & 1 == 1))
        signals = np.flatnonzero((queue == producer) & (masks["signal"] >> consumer & 1 == 1))
        if len(waits):  # without the last token of this pair
            program.instructions["wait"][waits[-1]] &= ~np.uint32(1 << producer)
            program.instructions["signal"][signals[-1]] &= ~np.uint32(1 << consumer)
            assert verify(program)
            for name in ("wait", "signal"):
                program.instructions[name] = masks[name]
