"""Sends of all cores beside instructions that hold banks, cycle by cycle: for the fast model's ``neighbours.py``.

Who waits at a bank, or behind others at a peer port, starts his next send later, and meets other words there: so all
sends of a chip that overlap, or follow one another, are stepped together.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import entry, inlined, kernel
from ommatid.isa.instructions import MOST_CORES
from ommatid.simulator.banks import AHEAD_BEATS, STARVATION_CYCLES
from ommatid.simulator.bits import unowned
from ommatid.simulator.transfers import transfer_banks, transfer_words

#: A send while it is stepped. It starts in cycle ``begin``, unless it ``follows`` the one before on its core: then when
#: that leaves the engine; ``next`` is the one after, or as many as there are. ``beat`` is its next one, -1 before it
#: starts; ``released`` and ``through`` are when it leaves the engine and when all is written, -1 before. Of the words
#: that it reads, and then of those that it writes, in one list of all words: the first, the first that is not granted
#: and that is not requested; and the end.
SEND = np.dtype([
    (name, "i8") for name in (
        "core", "peer", "begin", "follows", "next", "beats", "beat", "released", "through",
        "read_first", "read_low", "read_new", "first", "low", "new", "end",
    )
])  # fmt: skip
GRANTED = -1  # since when such a word waits


@entry
def step_sends(sends: Any, read: Any, written: Any, first: Any, banks: int, room: int, others: Any) -> None:
    """Step SEND records, of each core in its order, until all are through.

    ``read`` and ``written`` are int64 [send, (address, run, three counts, three steps)], ``first`` is each core's first
    send. A store port makes ``room`` grants a cycle; ``others`` are the sets of banks that others hold, int64 [core, cycle].
    """
    bank = all_banks(sends, read, written, banks)
    step(sends, bank, np.zeros(len(bank), np.int64), first, room, others)


@kernel
def step(sends: Any, bank: Any, since: Any, first: Any, room: int, others: Any) -> None:
    """Step them; ``since`` is since when each word waits."""
    sends, bank, since, others = unowned(sends), unowned(bank), unowned(since), unowned(others)
    coming, running, low, high, at = first.copy(), np.full(MOST_CORES, -1), 0, 0, 0
    while low < len(sends):
        for core in range(MOST_CORES):
            k = coming[core]
            if running[core] < 0 and k < len(sends) and (sends[k].follows or sends[k].begin <= at):
                sends[k].begin, sends[k].beat, running[core], coming[core] = at, 0, k, sends[k].next
                high = max(high, k + 1)
        for k in range(low, high):
            if sends[k].beat >= 0:
                ask(sends[k], since, at)
        for core in range(MOST_CORES):
            held, used = others[core, at] if at < others.shape[1] else 0, 0
            if running[core] >= 0:
                used = read_words(sends[running[core]], bank, since, room, held, at)
            write_word(sends, low, high, core, bank, since, used, held, at)
        for k in range(low, high):
            if sends[k].beat >= 0 and go_on(sends[k], at):
                running[sends[k].core] = -1
        while low < high and sends[low].through >= 0:
            low += 1
        at += 1


@kernel
def all_banks(sends: Any, read: Any, written: Any, banks: int) -> Any:
    """The banks of all words; the sends are told where theirs are."""
    total = 0
    for k in range(len(sends)):
        w = sends[k]
        w.read_first, w.first = total, total + transfer_words(read[k])
        total = w.first + transfer_words(written[k])
        w.read_low, w.read_new, w.low, w.new, w.end = w.read_first, w.read_first, w.first, w.first, total
    bank = np.empty(total, np.uint8)
    for k in range(len(sends)):
        w = sends[k]
        bank[w.read_first : w.first] = transfer_banks(read[k], w.first - w.read_first, banks)
        bank[w.first : w.end] = transfer_banks(written[k], w.end - w.first, banks)
    return bank


@inlined
def ask(w: Any, since: Any, at: int) -> None:
    """A send requests the words that it reads in its next beats, and those to be written of beats that took place."""
    reads, made = needed(w, min(w.beat + AHEAD_BEATS, w.beats)), written_by(w, w.beat)
    since[w.read_new : reads], since[w.new : made] = at, at
    w.read_new, w.new = reads, made


@inlined
def needed(w: Any, beats: int) -> int:
    """The end of the words that these beats read."""
    words = w.first - w.read_first
    return w.read_first + (beats if words == w.beats else -(-beats * words // w.beats))


@inlined
def written_by(w: Any, beats: int) -> int:
    """The end of the words that these beats write."""
    words, beats = w.end - w.first, max(0, beats)
    return w.first + (beats if words == w.beats else beats * words // w.beats)


@inlined
def free_word(low: int, new: int, bank: Any, since: Any, used: int, held: int, at: int) -> int:
    """The first of these words that waits and that its bank may grant; ``new``: none."""
    for n in range(low, new):
        taken = used >> bank[n] & 1 or (held >> bank[n] & 1 and at - since[n] < STARVATION_CYCLES)
        if since[n] != GRANTED and not taken:
            return n
    return new


@inlined
def read_words(w: Any, bank: Any, since: Any, room: int, held: int, at: int) -> int:
    """The store port grants words of a send, the first ones; the set of their banks."""
    used = 0
    for _ in range(room):
        n = free_word(w.read_low, w.read_new, bank, since, used, held, at)
        if n < w.read_new:
            used |= 1 << bank[n]
            since[n] = GRANTED
    while w.read_low < w.read_new and since[w.read_low] == GRANTED:
        w.read_low += 1
    return used


@inlined
def write_word(
    sends: Any, low: int, high: int, core: int, bank: Any, since: Any, used: int, held: int, at: int
) -> None:
    """The peer port of a core grants a word, the eldest; of several that of the lowest core, of one the first."""
    chosen, found = -1, 0
    for k in range(low, high):
        w = sends[k]
        if w.peer == core and w.low < w.new:
            n = free_word(w.low, w.new, bank, since, used, held, at)
            if n < w.new and (chosen < 0 or (since[n], w.core) < (since[found], sends[chosen].core)):
                chosen, found = k, n
    if chosen >= 0:
        w, since[found] = sends[chosen], GRANTED
        while w.low < w.new and since[w.low] == GRANTED:
            w.low += 1


@inlined
def go_on(w: Any, at: int) -> bool:
    """A beat of a send takes place, if it may; whether it leaves the engine by that. It is through when all is written."""
    last = False
    if (
        w.beat < w.beats
        and w.read_low >= needed(w, w.beat + 1)
        and w.low >= written_by(w, w.beat - AHEAD_BEATS)
    ):
        w.beat += 1
        last = w.beat == w.beats
        w.released = at + 1 if last else -1
    if w.released >= 0 and w.through < 0 and w.low == w.end:
        w.through = at + 1
    return last
