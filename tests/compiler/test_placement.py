"""Placements: nothing that lives at once overlaps, none is below the bound, and the exact one is the lowest there is."""

from __future__ import annotations

from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ommatid.compiler.placement import FAST, Placement, place
from ommatid.compiler.placement_search import FOUND, NONE, search
from ommatid.compiler.placement_sections import Box, sections
from tests.compiler.boxes import FAMILIES, HEIGHT, problem, read_csv, write_csv


def together(a: Box, b: Box) -> bool:
    return a.first <= b.last and b.first <= a.last


def bound(boxes: list[Box]) -> int:
    """The most bytes alive at one time, which is when a box begins."""
    alive = ([box for box in boxes if box.first <= new.first <= box.last] for new in boxes)
    return max((sum(box.size for box in each) for each in alive), default=0)


def checked(boxes: list[Box], placement: Placement) -> Placement:
    at = placement.offsets
    assert len(at) == len(boxes) and all(offset >= 0 for offset in at)
    for i, j in combinations(range(len(boxes)), 2):
        apart = at[i] + boxes[i].size <= at[j] or at[j] + boxes[j].size <= at[i]
        assert apart or not together(boxes[i], boxes[j])
    highest = max((offset + box.size for offset, box in zip(at.tolist(), boxes, strict=True)), default=0)
    assert placement.peak == highest >= placement.bound >= bound(boxes)
    return placement


def lowest_of_all(boxes: list[Box]) -> int:
    """By trying every order, each box at the lowest address that is free: in order of their addresses, none is lost."""
    best = sum(box.size for box in boxes)
    for order in permutations(boxes):
        placed: list[tuple[int, Box]] = []
        for box in order:
            at = 0
            for begin, other in sorted(placed, key=lambda pair: pair[0]):
                if together(box, other) and begin < at + box.size:
                    at = max(at, begin + other.size)
            placed.append((at, box))
        best = min(best, max(at + box.size for at, box in placed))
    return best


BOXES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(1, 6)), max_size=6)


@settings(deadline=None, max_examples=40)
@given(BOXES)
def test_the_exact_planner_finds_the_lowest_of_all(table: list[tuple[int, int, int]]) -> None:
    boxes = [Box(f"b{i}", first, first + more, size) for i, (first, more, size) in enumerate(table)]
    checked(boxes, place(boxes))
    exact = checked(boxes, place(boxes, 10_000))
    assert exact.peak == exact.bound == (lowest_of_all(boxes) if boxes else 0)
    if boxes:
        parts = sections(boxes)
        assert search(parts, exact.peak, 1000)[0] == FOUND
        assert search(parts, exact.peak - 1, 1000)[0] == NONE


def test_a_bound_that_cannot_be_reached() -> None:
    """Six bytes are alive at every moment, and yet six are not enough."""
    spans = [(0, 0, 5), (1, 2, 2), (0, 3, 1), (3, 3, 1), (1, 4, 3), (4, 4, 2), (3, 5, 1), (5, 5, 5)]
    boxes = [Box(f"b{i}", *span) for i, span in enumerate(spans)]
    exact = checked(boxes, place(boxes, 10_000))
    assert bound(boxes) == 6 and exact.peak == exact.bound == 7


@pytest.mark.parametrize("family", FAMILIES)
def test_generated_problems(family: str) -> None:
    for seed in range(2):
        boxes = problem(family, 60, seed)
        fast, exact = (checked(boxes, place(boxes, steps)) for steps in (FAST, 100_000))
        assert exact.peak == exact.bound == bound(boxes) >= fast.peak / 1.05
        assert bound(boxes) == HEIGHT or family in ("cuts with holes", "networks")
        assert np.array_equal(place(boxes, 100_000).offsets, exact.offsets)


def test_lives_are_cut_where_the_most_are_alive() -> None:
    boxes = [Box("a", 0, 3, 5), Box("b", 2, 7, 3), Box("c", 4, 9, 4), Box("d", 8, 8, 1)]
    parts = sections(boxes)  # a b | b c | c d
    assert parts.total.tolist() == [8, 7, 5]
    assert parts.begin.tolist() == [0, 0, 1, 2] and parts.end.tolist() == [1, 2, 3, 3]
    alive = [parts.covers[parts.covers_at[s] : parts.covers_at[s + 1]].tolist() for s in range(3)]
    assert alive == [[0, 1], [1, 2], [2, 3]]


def test_files_of_the_benchmark(tmp_path: Path) -> None:
    text = "id,lower,upper,size\nb1,0,3,4\nb2,3,9,4\nb3,0,9,4\nb4,9,21,4\nb5,0,21,4\n"
    (tmp_path / "in.csv").write_text(text, encoding="utf-8")
    boxes = read_csv(tmp_path / "in.csv")
    assert boxes[1] == Box("b2", 3, 8, 4)
    placement = checked(boxes, place(boxes))
    assert placement.peak == 12
    write_csv(tmp_path / "out.csv", boxes, placement.offsets)
    rows = [line.split(",") for line in (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()]
    assert [",".join(row[:4]) for row in rows] == text.splitlines()
    assert [row[4] for row in rows] == ["offset", *map(str, placement.offsets)]
    assert read_csv(tmp_path / "out.csv") == boxes
