"""Words of one instruction at its core's banks, cycle by cycle: for what ``crowding.py`` and ``neighbours.py`` look at.

Lists of words are the banks that these lie in (uint8); a set of banks is a mask.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import inlined, kernel
from ommatid.simulator.bits import lowest, size, unowned

AHEAD_BEATS = 16  # whose words an engine requests
MOST_BANKS = 64  # that are told apart
STARVATION_CYCLES = 256  # for which a request has waited that goes first


@inlined
def bank_of(word: int, banks: int) -> int:
    """The bank of a word; those beyond MOST_BANKS are taken for others before."""
    bits = lowest(banks)
    return (word ^ word >> bits ^ word >> 2 * bits) & (min(banks, MOST_BANKS) - 1)


@kernel
def cycles_at_banks(
    reads: Any, more: Any, writes: Any, beats: int, rooms: Any, ahead: int, others: Any, own: Any
) -> int:
    """Cycles from the first beat to the end of an instruction that reads two lists of words and writes one.

    It requests words from ``ahead`` cycles before the first beat on: those of startup, of which the last of ``vx`` is
    that of the last write. ``rooms`` are the grants a cycle of each list; a room of 0 is that of the list before, which
    shares its port. ``others`` and ``own`` are the sets of banks that others hold in each cycle (uint32, from the
    first request on), and, to be filled, those that the instruction itself holds; either may be short, or empty.
    """
    return stepped(
        reads, more, writes, due_words(len(reads), beats, 1), due_words(len(more), beats, 1),
        due_words(len(writes), beats, 0), queue(reads), queue(more), queue(writes), rooms, ahead, others, own,
    )  # fmt: skip


@kernel
def stepped(
    reads: Any, more: Any, writes: Any, due_a: Any, due_b: Any, due_c: Any,
    a: Any, b: Any, c: Any, rooms: Any, ahead: int, others: Any, own: Any,
) -> int:  # fmt: skip
    """These cycles; ``due_...`` as of ``due_words``, ``a``, ``b`` and ``c`` as of ``queue``."""
    reads, more, writes, due_a, due_b, due_c = (
        unowned(reads),
        unowned(more),
        unowned(writes),
        unowned(due_a),
        unowned(due_b),
        unowned(due_c),
    )
    a, b, c = (unowned(a[0]), unowned(a[1])), (unowned(b[0]), unowned(b[1])), (unowned(c[0]), unowned(c[1]))
    beats, beat, cycle, at = len(due_a) - 1, 0, -ahead, 0
    room_a, room_b, room_c = rooms[0], rooms[1], rooms[2]
    low_a, low_b, low_c, ready_a, ready_b, ready_c, got_a, got_b, got_c = 0, 0, 0, 0, 0, 0, 0, 0, 0
    new_a, new_b, new_c = 0, 0, 0
    while beat < beats or low_c < len(writes):
        asked = min(beat + AHEAD_BEATS, beats)
        held = np.int64(others[at]) if at < len(others) else 0
        old_a, old_b, old_c = new_a, new_b, new_c
        new_a, new_b, new_c = due_a[asked], due_b[asked], due_c[beat]
        got_a, ready_a, low_a = serve(reads, a, ready_a, low_a, old_a, new_a, room_a, 0, held, at)
        left = room_b if room_b else room_a - size(got_a)
        got_b, ready_b, low_b = serve(more, b, ready_b, low_b, old_b, new_b, left, got_a, held, at)
        got_c, ready_c, low_c = serve(
            writes, c, ready_c, low_c, old_c, new_c, room_c, got_a | got_b, held, at
        )
        if at < len(own):
            own[at] = got_a | got_b | got_c
        if cycle >= 0 and beat < beats and low_a >= due_a[beat + 1] and low_b >= due_b[beat + 1]:
            beat += low_c >= due_c[max(0, beat - AHEAD_BEATS)]
        cycle += 1
        at += 1
    return cycle


@kernel
def queue(words: Any) -> Any:
    """What is kept of each word: the next one in its bank, since when it waits (-1: granted); by bank, the first."""
    end = len(words)
    kept, head = np.empty((end + 1, 2), np.int32), np.full(MOST_BANKS, end, np.int32)
    for n in range(end - 1, -1, -1):
        kept[n, 0], kept[n, 1] = head[words[n]], 0
        head[words[n]] = n
    kept[end, 0], kept[end, 1] = end, 0
    return kept, head


@inlined
def serve(
    words: Any, queue: Any, ready: int, low: int, old: int, new: int, room: int, used: int, held: int, at: int
) -> tuple[int, int, int]:
    """A cycle of a list of which words ``old`` to ``new`` are requested now: the banks that grant one, the eldest first.

    ``ready`` are the banks with words that are requested, all before ``low`` are granted; both are returned, too.
    """
    ready = request(words, queue, ready, old, new, at)
    free = grantable(queue, ready, used, held, at)
    if size(free) > room:
        free = eldest(words, queue, low, free, room)
    ready, low = grant(queue, free, ready, low, new)
    return free, ready, low


@inlined
def request(words: Any, queue: Any, ready: int, old: int, new: int, at: int) -> int:
    """Words ``old`` to ``new`` are requested; the banks with words that are."""
    for n in range(old, new):
        ready |= 1 << words[n]
        queue[0][n, 1] = at
    return ready


@inlined
def grantable(queue: Any, ready: int, used: int, held: int, at: int) -> int:
    """The banks that may grant a word: not ``used``, and not held by others unless it has waited long."""
    kept, head = queue
    free, waits = ready & ~(used | held), ready & held & ~used
    while waits:
        bank = lowest(waits)
        waits &= waits - 1
        free |= (at - kept[head[bank], 1] >= STARVATION_CYCLES) << bank
    return free


@inlined
def eldest(words: Any, queue: Any, low: int, free: int, room: int) -> int:
    """Of the banks ``free`` those of the first words that wait, as many as there is room for."""
    chosen, n = 0, low
    while room > 0:
        bank = 1 << words[n]
        if queue[0][n, 1] >= 0 and free & bank:
            chosen |= bank
            free ^= bank
            room -= 1
        n += 1
    return chosen


@inlined
def grant(queue: Any, granted: int, ready: int, low: int, new: int) -> tuple[int, int]:
    """These banks grant their first words; the banks with words that are requested, and what all before are granted."""
    kept, head = queue
    while granted:
        bank = lowest(granted)
        granted &= granted - 1
        n = head[bank]
        head[bank] = kept[n, 0]
        kept[n, 1] = -1
        if kept[n, 0] >= new:
            ready ^= 1 << bank
    while kept[low, 1] < 0:
        low += 1
    return ready, low


@kernel
def due_words(words: int, beats: int, up: int) -> Any:
    """How many of so many words are due before each beat and after the last: parts of a word count if ``up``."""
    due, whole, part, over = np.empty(beats + 1, np.int32), words // beats, words % beats, 0
    due[0] = 0
    count = 0
    for beat in range(beats):
        over += part
        carry = over >= beats
        count, over = count + whole + carry, over - carry * beats
        due[beat + 1] = count + (up if over > 0 else 0)
    return due
