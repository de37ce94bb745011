"""Exact placement: boxes of fixed spans of time below a given height, by search from the floor up.

The search keeps a *floor* for each section of time, below which nothing more is put. Where the floor is a valley - a
run of sections of one height between higher ones - the next box at the valley's edge either stands at that height,
within the valley, or the edge is waste up to where a box can stand at the earliest. That is all there is to choose,
and it does not matter which valley is chosen first; so it is the one with the fewest boxes, and of these the one where
most failed before. A valley fails whose waste leaves too little height for what is still to come.

What stands below the floors matters for the rest only by the floors and by which boxes are left: states that failed
are remembered by a hash of both. The search starts over after ever more steps, with boxes tried in another order:
large ones first, long ones or high ones, by and large, and before them those whose top is level with what is beside.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ommatid.compiler.placement_sections import Sections
from ommatid.isa.compiled import entry, kernel

Array = np.ndarray[Any, Any]
FOUND, NONE, UNKNOWN = 1, 0, -1
#: Failed states that are remembered: a power of two.
STATES = 1 << 18
#: Steps before the first new start.
FIRST_STEPS = 500


class _State(NamedTuple):
    """Floors, sizes left above them, and how often a section failed; which boxes are placed; what was done, in order.

    In ``trail`` is a box that was placed, or -1 - the section whose floor was raised, from ``trail_floor``.
    """

    floor: Array
    left: Array
    weight: Array
    placed: Array
    trail: Array
    trail_floor: Array


def search(boxes: Sections, height: int, steps: int) -> tuple[int, Array]:
    """Put boxes below ``height`` in so many steps: (result, offsets, which mean something if the result is FOUND)."""
    count, sections = len(boxes.size), len(boxes.total)
    offsets = np.zeros(count, np.int64)
    if sections and boxes.total.max() > height:
        return NONE, offsets
    random = np.random.default_rng(1)
    keys = [random.integers(1, 1 << 63, n).astype(np.uint64) * 2 + 1 for n in (count, sections)]
    depth = 4 * (count + sections) + 16
    state = _State(
        np.zeros(sections, np.int64), np.zeros(sections, np.int64), np.ones(sections), np.zeros(count, np.bool_),
        np.zeros(8 * depth, np.int64), np.zeros(8 * depth, np.int64),
    )  # fmt: skip
    failed = np.zeros(STATES, np.uint64)
    taken, run, result = 0, 0, UNKNOWN
    while taken < steps and result == UNKNOWN:
        limit = min(steps, taken + FIRST_STEPS * 2 ** (run // 4))
        rank = np.ones(count) if run == 0 else random.uniform(0.3, 1.3, count)
        rank *= boxes.size if run % 3 != 1 else 1
        rank *= boxes.end - boxes.begin if run % 3 != 2 else 1
        result, taken = _descend(boxes, state, rank, *keys, failed, depth, height, offsets, taken, limit)
        run += 1
    return result, offsets


@entry
def _descend(
    boxes: Any, state: Any, rank: Any, box_key: Any, section_key: Any, failed: Any, depth: int, height: int,
    offsets: Any, taken: int, limit: int,
) -> Any:  # fmt: skip
    """One search, depth first, until so many steps are taken: (result, steps taken)."""
    floor, left, _, placed, trail, trail_floor = state
    count, sections = len(rank), len(floor)
    # of each level: length of the trail, next choice, edge, where its waste ends
    mark, following = np.zeros(depth, np.int64), np.zeros(depth, np.int64)
    edge, waste_to, key_of = np.zeros(depth, np.int64), np.zeros(depth, np.int64), np.zeros(depth, np.uint64)
    begins, choices = np.zeros(depth + 1, np.int64), np.zeros(16 * depth + count, np.int64)
    value = np.zeros(count)
    floor[:] = 0
    left[:] = boxes.total
    placed[:] = False
    level, used, done, placed_key = -1, 0, 0, np.uint64(0)
    while taken < limit and used < len(trail) - 2 * sections:
        ok, used, where, low, high, left_edge = _settle(boxes, state, height, used)
        if ok and done == count:
            return FOUND, taken
        if ok:
            key = placed_key
            for s in range(sections):
                if left[s]:
                    key += section_key[s] * np.uint64(floor[s] + 1)
            ok = failed[key & np.uint64(len(failed) - 1)] != key
        if ok:
            level += 1
            if level == depth or begins[level] + count > len(choices):
                return UNKNOWN, taken
            mark[level], edge[level], key_of[level], following[level] = used, where, key, begins[level]
            begins[level + 1] = _order(
                boxes, floor, placed, rank, value, low, high, left_edge, choices, begins[level]
            )
            waste_to[level] = _earliest(boxes, floor, placed, where, low, high, left_edge)
        moved = False  # on to the next choice of the deepest level that has one
        while level >= 0 and not moved:
            while used > mark[level]:
                used -= 1
                i = trail[used]
                if i < 0:
                    floor[-1 - i] = trail_floor[used]
                    continue
                _put(boxes, state, i, -1)
                done -= 1
                placed_key ^= box_key[i]
            s = edge[level]
            if following[level] < begins[level + 1]:
                i = choices[following[level]]
                offsets[i] = floor[s]
                _put(boxes, state, i, 1)
                done += 1
                placed_key ^= box_key[i]
                trail[used] = i
                moved = True
            elif following[level] == begins[level + 1] and 0 <= waste_to[level] <= height - left[s]:
                trail[used], trail_floor[used] = -1 - s, floor[s]
                floor[s] = waste_to[level]
                moved = True
            else:
                failed[key_of[level] & np.uint64(len(failed) - 1)] = key_of[level]
                level -= 1
        following[level] += moved
        used += moved
        taken += 1
        if level < 0:
            return NONE, taken
    return UNKNOWN, taken


@kernel
def _put(boxes: Any, state: Any, i: int, sign: int) -> None:
    """Put a box on the floor of its sections, or with sign -1 take it away again."""
    state.placed[i] = sign > 0
    for s in range(boxes.begin[i], boxes.end[i]):
        state.floor[s] += sign * boxes.size[i]
        state.left[s] -= sign * boxes.size[i]


@kernel
def _settle(boxes: Any, state: Any, height: int, used: int) -> Any:
    """Raise the floor at edges of valleys where no box can stand; then the edge where there is least to choose.

    Gives whether all still fits, the length of the trail, the edge, its valley's first section and end, and whether it
    is the left edge.
    """
    floor, left, weight, placed, trail, trail_floor = state
    sections = len(floor)
    again, where = True, (0, 0, 0, True)
    while again:
        again, best = False, np.inf
        low = 0
        while low < sections:
            high = low + 1
            if left[low] == 0:  # nothing is to come: as good as a wall
                low = high
                continue
            while high < sections and left[high] and floor[high] == floor[low]:
                high += 1
            valley = (low == 0 or left[low - 1] == 0 or floor[low - 1] > floor[low]) and (
                high == sections or left[high] == 0 or floor[high] > floor[low]
            )
            for side in range(2 * valley):
                s = high - 1 if side else low
                cost = float(_candidates(boxes, placed, low, high, side == 0)) / weight[s]
                if cost == 0.0:
                    to = -1
                    if floor[s] + left[s] < height:
                        to = _earliest(boxes, floor, placed, s, low, high, side == 0)
                    if to < 0 or to + left[s] > height or used == len(trail):
                        weight[s] += 1
                        return False, used, 0, 0, 0, True
                    trail[used], trail_floor[used] = -1 - s, floor[s]
                    used += 1
                    floor[s] = to
                    again = True
                    break
                if cost < best:
                    best, where = cost, (s, low, high, side == 0)
            low = high
    return True, used, *where


@kernel
def _candidates(boxes: Any, placed: Any, low: int, high: int, left_edge: bool) -> int:
    """How many boxes can stand at an edge of the valley of sections ``low`` to before ``high``."""
    count = 0
    if left_edge:
        for i in boxes.starts[boxes.starts_at[low] : boxes.starts_at[low + 1]]:
            count += not placed[i] and boxes.end[i] <= high
    else:
        for i in boxes.stops[boxes.stops_at[high] : boxes.stops_at[high + 1]]:
            count += not placed[i] and boxes.begin[i] >= low
    return count


@kernel
def _order(
    boxes: Any, floor: Any, placed: Any, rank: Any, value: Any, low: int, high: int, left_edge: bool, choices: Any,
    at: int,
) -> int:  # fmt: skip
    """Write the boxes that can stand at an edge of a valley to ``choices`` from ``at`` on, in order; their end."""
    first = at
    some = boxes.starts[boxes.starts_at[low] : boxes.starts_at[low + 1]]
    if not left_edge:
        some = boxes.stops[boxes.stops_at[high] : boxes.stops_at[high + 1]]
    for i in some:
        begin, end = boxes.begin[i], boxes.end[i]
        if placed[i] or begin < low or end > high:
            continue
        same = False  # one of several that are alike is enough
        for j in choices[first:at]:
            same |= boxes.size[j] == boxes.size[i] and boxes.begin[j] == begin and boxes.end[j] == end
        if same:
            continue
        top = floor[low] + boxes.size[i]
        value[i] = rank[i]
        if begin == low and low > 0 and top == floor[low - 1]:
            value[i] *= 8
        if end == high and high < len(floor) and top == floor[high]:
            value[i] *= 8
        if begin == low and end == high:
            value[i] *= 4
        k = at
        while k > first and value[choices[k - 1]] < value[i]:
            choices[k] = choices[k - 1]
            k -= 1
        choices[k] = i
        at += 1
    return at


@kernel
def _earliest(boxes: Any, floor: Any, placed: Any, where: int, low: int, high: int, left_edge: bool) -> int:
    """Where a box can stand at the earliest at the edge ``where`` if none stands on the valley's floor; -1: nowhere.

    One that reaches out of the valley stands on a higher floor; one within it on a box that is not over the edge.
    """
    best, reach = -1, where
    for i in boxes.covers[boxes.covers_at[where] : boxes.covers_at[where + 1]]:
        begin, end = boxes.begin[i], boxes.end[i]
        if placed[i]:
            continue
        if begin >= low and end <= high:
            reach = max(reach, end - 1) if left_edge else min(reach, begin)
            continue
        top = 0
        for s in range(begin, end):
            top = max(top, floor[s])
        best = top if best < 0 else min(best, top)
    some = boxes.starts[boxes.starts_at[where + 1] : boxes.starts_at[reach + 1]]
    if not left_edge:
        some = boxes.stops[boxes.stops_at[reach + 1] : boxes.stops_at[where + 1]]
    for i in some:
        if not placed[i]:
            top = floor[where] + boxes.size[i]
            best = top if best < 0 else min(best, top)
    return best
