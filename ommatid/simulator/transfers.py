"""When the words of a queue's loads or stores are through where others hold banks: for the fast model's neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import entry, kernel
from ommatid.isa.footprint import WORD_BITS
from ommatid.simulator.banks import AHEAD_BEATS, bank_of, eldest, grant, grantable, queue, request
from ommatid.simulator.bits import lowest


@entry
def transfers(sides: Any, begin: Any, bursts: Any, each: Any, room: int, banks: int, others: Any) -> Any:
    """The cycles (int64) at whose begin the words of transfers are through that share a port, in the order of their queue.

    ``sides`` is int64 [transfer, (address, run, three counts, three steps)]. A share of the words of each may be
    requested every ``each`` cycles from ``begin`` on, for each of its ``bursts``; at once if ``each`` is 0. The port makes
    ``room`` grants a cycle, the eldest first; ``others`` are the sets of banks that others hold in each cycle.
    """
    count = len(sides)
    words = [transfer_banks(sides[k], transfer_words(sides[k]), banks) for k in range(count)]
    queues = [queue(each_list) for each_list in words]
    through, state = (
        np.zeros(count, np.int64),
        np.zeros((count, 3), np.int64),
    )  # banks with words, low, requested
    at, first, end = begin[0], 0, 0
    while first < count:
        held, used = others[at] if at < len(others) else 0, 0
        while end < count and begin[end] <= at:
            end += 1
        for k in range(first, end):
            ready, low, asked = state[k]
            come = len(words[k])
            if each[k] > 0:
                come = come * min(bursts[k], int((at - begin[k]) / each[k])) // bursts[k]
            new = max(asked, min(low + AHEAD_BEATS, come))
            state[k, 0], state[k, 2] = request(words[k], queues[k], ready, asked, new, at), new
        for _ in range(room):
            since, chosen, bank = at + 1, -1, 0
            for k in range(first, end):
                free = grantable(queues[k], state[k, 0], used, held, at)
                if free:
                    found = eldest(words[k], queues[k], state[k, 1], free, 1)
                    waits = queues[k][0][queues[k][1][lowest(found)], 1]
                    if waits < since:
                        since, chosen, bank = waits, k, found
            if chosen < 0:
                break
            used |= bank
            ready, low, new = state[chosen]
            state[chosen, 0], state[chosen, 1] = grant(queues[chosen], bank, ready, low, new)
            if state[chosen, 1] == len(words[chosen]):
                through[chosen] = at + 1
        at += 1
        while first < end and through[first] > 0:
            first += 1
        if first == end and first < count:
            at = max(at, begin[first])
    return through


@kernel
def transfer_runs(side: Any) -> Any:
    """Loops of one side of a DMA after joining: the bytes of a run, counts and steps."""
    run, count, step, left = side[1], np.ones(3, np.int64), np.zeros(3, np.int64), 0
    for k in range(3):
        n, s = side[2 + k], side[5 + k]
        if left == 0 and (n == 1 or s == run or s == 0):
            run *= n if s == run else 1
        else:
            count[left], step[left], left = n, s, left + 1
    return run, count, step


@kernel
def transfer_words(side: Any) -> int:
    """How many words these runs touch."""
    run, count, step = transfer_runs(side)
    words = 0
    for c in range(count[2]):
        for b in range(count[1]):
            for a in range(count[0]):
                at = side[0] + a * step[0] + b * step[1] + c * step[2]
                words += (at + run - 1 >> WORD_BITS) - (at >> WORD_BITS) + 1
    return words


@kernel
def transfer_banks(side: Any, limit: int, banks: int) -> Any:
    """The banks of so many words of them."""
    run, count, step = transfer_runs(side)
    found, n = np.empty(limit, np.uint8), 0
    for c in range(count[2]):
        for b in range(count[1]):
            for a in range(count[0]):
                at = side[0] + a * step[0] + b * step[1] + c * step[2]
                for word in range(at >> WORD_BITS, (at + run - 1 >> WORD_BITS) + 1):
                    if n == limit:
                        return found
                    found[n] = bank_of(word, banks)
                    n += 1
    return found
