"""The allocator against a bitmap: buffers do not overlap, and it refuses only what fits nowhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ommatid.compiler.sram import ALIGN, DoesNotFit, Sram, aligned

UNITS = 40


def longest_gap(taken: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> int:
    runs = "".join("x" if unit else "." for unit in taken).split("x")
    return max(len(run) for run in runs)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from(["tile", "stay", "release"]), st.integers(1, 12 * ALIGN)), max_size=40)
)
def test_buffers_do_not_overlap(calls: list[tuple[str, int]]) -> None:
    sram, taken = Sram(UNITS * ALIGN), np.zeros(UNITS, bool)
    buffers: dict[int, int] = {}
    peak = 0
    for call, size in calls:
        units = -(-size // ALIGN)
        if call == "release":
            if buffers:
                address = sorted(buffers)[size % len(buffers)]
                sram.release(address)
                taken[address // ALIGN :][: buffers.pop(address)] = False
        elif units > longest_gap(taken):
            with pytest.raises(DoesNotFit) as caught:
                getattr(sram, call)(size)
            assert caught.value.need_bytes == units * ALIGN
        else:
            address = getattr(sram, call)(size)
            assert address % ALIGN == 0
            mine = taken[address // ALIGN :][:units]
            assert len(mine) == units and not mine.any()
            if call == "stay":  # as high as possible
                above = taken[address // ALIGN + 1 :]
                assert all(above[k : k + units].any() for k in range(len(above) - units + 1))
            mine[:] = True
            buffers[address] = units
        peak = max(peak, int(taken.sum()))
        assert sram.free_bytes() == int((~taken).sum()) * ALIGN and sram.peak_bytes == peak * ALIGN
        free = [unit for low, high in sram.gaps() for unit in range(low // ALIGN, high // ALIGN)]
        assert free == np.flatnonzero(~taken).tolist()


def test_tiles_go_round_in_a_circle() -> None:
    """What was given back last is used last."""
    sram = Sram(4 * ALIGN)
    order = []
    for _ in range(6):
        order.append(sram.tile(1))
        sram.release(order[-1])
    assert order == [0, 64, 128, 192, 0, 64]
    first = sram.tile(65)
    assert (first, sram.tile(1), sram.tile(1)) == (128, 0, 64)


def test_what_stays_may_have_a_planned_address() -> None:
    sram = Sram(4 * ALIGN)
    assert sram.stay(1, at=ALIGN) == ALIGN and sram.gaps() == [(0, ALIGN), (2 * ALIGN, 4 * ALIGN)]
    for taken in (0, 3 * ALIGN, -ALIGN):
        with pytest.raises(DoesNotFit):
            sram.stay(2 * ALIGN, at=taken)


def test_only_buffers_are_given_back() -> None:
    sram = Sram(4 * ALIGN)
    sram.tile(2 * ALIGN)
    for address in (ALIGN, 2 * ALIGN):
        with pytest.raises(KeyError):
            sram.release(address)


def test_aligned() -> None:
    assert [aligned(size) for size in (0, 1, 64, 65)] == [0, 64, 64, 128]
    assert aligned(17, 16) == 32
