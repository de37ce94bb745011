"""The ports over which several cores write: words that wait there behind those of others, or of a ``fill``.

A load's bursts do not wait for its words: where loads of several cores write over one port (``multicast``), words that
have arrived pile up before it. All arrive as long after their burst was granted, so that here words count as arrived
with it, and the latency follows. A ``send`` goes on while no more than those of 16 beats wait, and then at the pace at
which they are written. Those who share a port divide it equally, as each has 16 requests there, oldest first; a load
that writes several cores goes at the pace of the slowest.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import kernel
from ommatid.isa.instructions import MOST_CORES
from ommatid.simulator.banks import AHEAD_BEATS
from ommatid.simulator.rates import slow_down
from ommatid.simulator.state import DRAINED, LANDING, PORTS, STREAMS

ALL = 2 * MOST_CORES  # load ports and peer ports
NONE = 1e-6  # words that are no backlog: what float64 leaves


@kernel
def begin_stream(s: Any, i: int, q: int, ports: int) -> None:
    """Load or send ``i`` of queue ``q`` starts; it writes over ``ports``, a mask."""
    if s.streams == STREAMS:
        return
    k, s.streams, s.cap[q] = s.streams, s.streams + 1, s.cap[q] if s.moving >> q & 1 else 1.0
    s.changed |= PORTS
    s.mover[k], s.from_queue[k], s.goes_to[k], s.place[k] = i, q, ports, -1
    s.came[k], s.waiting[k], s.serving[k] = 0.0, 0.0, 0.0


@kernel
def port_rates(work: Any, s: Any, now: float) -> None:
    """Solve the paces of all their words anew, and with them those of sends, and when what has left its engine is done."""
    passed, s.port_since, s.when[DRAINED], k = now - s.port_since, now, np.inf, 0
    while k < s.streams:
        came, s.arriving[k] = words_come(work, s, k, now)
        s.waiting[k] = max(0.0, s.waiting[k] + came - s.came[k] - s.serving[k] * passed)
        s.came[k] = came
        if s.place[k] >= 0 and s.waiting[k] <= NONE:
            remove(s, k)
        else:
            k += 1
    share_ports(s)
    for k in range(s.streams):
        w, q, left = work[s.mover[k]], s.from_queue[k], s.place[k] >= 0
        if not w.dma and not left:
            keep_pace(s, k, q, w.hold / w.pace, now)
        if s.waiting[k] > NONE and s.serving[k] > s.arriving[k] + NONE:
            s.when[DRAINED] = min(s.when[DRAINED], now + s.waiting[k] / (s.serving[k] - s.arriving[k]))
        if s.waiting[k] > NONE and left:
            through = now + np.ceil(s.waiting[k] / s.serving[k] - NONE) + 1
            put_off(s, q, s.place[k], max(s.floor[k], through + (w.after + w.late if w.dma else 0)))


@kernel
def words_come(work: Any, s: Any, k: int, now: float) -> tuple[float, float]:
    """Words of a load or send that have come to its port, and how many do in a cycle if no port keeps it."""
    w, q = work[s.mover[k]], s.from_queue[k]
    words = w.cost if w.dma else w.hold
    if s.place[k] >= 0 or (w.dma and not s.moving >> q & 1):
        return words, 0.0
    left, whole = s.left[q] - s.rate[q] * (now - s.since[q]), w.dram_bytes if w.dma else w.pace
    return words * (1 - left / whole), words / whole * (s.rate[q] if w.dma else s.cap[q])


@kernel
def keep_pace(s: Any, k: int, q: int, density: float, now: float) -> None:
    """A send of ``density`` words a beat goes on as its banks let it, or at the pace of its port if too many words wait."""
    room, speed = AHEAD_BEATS * density - s.waiting[k], s.cap[q]
    if s.arriving[k] > s.serving[k] + NONE:
        if room <= NONE:
            speed, s.arriving[k] = s.serving[k] / density, s.serving[k]
        else:
            s.when[DRAINED] = min(s.when[DRAINED], now + room / (s.arriving[k] - s.serving[k]))
    if speed != s.rate[q]:
        slow_down(s, q, speed, now)


@kernel
def put_off(s: Any, q: int, place: int, until: float) -> None:
    """What has left the engine of a queue is done at another time."""
    s.done_time[q, place] = until
    if place == s.done_first[q] and not s.stuck >> q & 1:
        s.when[q + LANDING] = until


@kernel
def remove(s: Any, k: int) -> None:
    """The words of a load or send have been written: the last one takes its place here."""
    s.streams -= 1
    n = s.streams
    s.mover[k], s.from_queue[k], s.goes_to[k], s.place[k] = (
        s.mover[n],
        s.from_queue[n],
        s.goes_to[n],
        s.place[n],
    )
    s.came[k], s.waiting[k], s.serving[k], s.floor[k] = s.came[n], s.waiting[n], s.serving[n], s.floor[n]


@kernel
def share_ports(s: Any) -> None:
    """Max-min fair: who gets least is settled, then what is left is shared by the others."""
    left, sharing, unsettled = np.ones(ALL), np.zeros(ALL), 0
    for k in range(s.streams):
        s.serving[k] = -1.0 if (s.waiting[k] > NONE or s.arriving[k] > 0) and not behind_own(s, k) else 0.0
        if s.serving[k] < 0:
            unsettled += 1
            for port in range(ALL):
                sharing[port] += s.goes_to[k] >> port & 1
    while unsettled > 0:
        least, slowest = np.inf, 0
        for k in range(s.streams):
            if s.serving[k] < 0:
                pace = 1.0 if s.waiting[k] > NONE else min(1.0, s.arriving[k])
                for port in range(ALL):
                    if s.goes_to[k] >> port & 1:
                        pace = min(pace, left[port] / sharing[port])
                if pace < least:
                    least, slowest = pace, k
        s.serving[slowest] = least
        unsettled -= 1
        for port in range(ALL):
            if s.goes_to[slowest] >> port & 1:
                left[port] -= least
                sharing[port] -= 1


@kernel
def behind_own(s: Any, k: int) -> bool:
    """Whether the words of a send are behind those of the one before on its core, which has left the engine."""
    found = False
    for j in range(s.streams):
        before = s.place[j] >= 0 and s.place[k] < 0 and s.from_queue[j] == s.from_queue[k]
        found |= (
            before
            and s.goes_to[j] == s.goes_to[k]
            and s.waiting[j] > NONE
            and s.goes_to[k] >= 1 << MOST_CORES
        )
    return found


@kernel
def leaves_engine(s: Any, q: int, place: int) -> None:
    """The load or send that ran on queue ``q`` stands at ``place`` of those that are to put their tokens."""
    for k in range(s.streams):
        if s.from_queue[k] == q and s.place[k] < 0:
            s.place[k], s.floor[k] = place, s.done_time[q, place]
            s.changed |= PORTS


@kernel
def beside_landing(work: Any, s: Any, q: int, words: float, now: float) -> float:
    """Cycles that a ``fill`` takes whose queue has loads of which words are still to come; they are put off.

    The words of a load come from the latency after its start until it is done. While they do they and the fill have
    an equal share of the port, or the fill what they leave.
    """
    at, left = now, words
    for k in range(s.done_count[q]):
        n = (s.done_first[q] + k) % len(s.done[q])
        w, done = work[s.done[q, n]], s.done_time[q, n]
        if w.dram_bytes == 0 or done <= at:
            continue
        first = max(at, w.start + 1 + w.after)
        if first - at >= left:
            break
        at, left = first, left - (first - at)
        density = min(1.0, w.cost / (w.released - w.start))
        share = max(0.5, 1 - density)  # the fill's
        need = left / share
        if density == 1 and first > w.start + 1 + w.after:  # words wait there, and those asked for go first
            need = max(need, left + AHEAD_BEATS)
        all_come = density * (done - at) / (1 - share)
        through = min(need, all_come)
        filled = left if need <= all_come else min(left, through * share)
        behind = density * min(through, done - at) - (through - filled)  # of the load's words that came
        at, left = at + through, left - filled
        late = at + behind - done if at > done else behind - (1 - density) * (done - at)
        put_off(s, q, n, done + np.floor(max(0.0, late)))
        for stream in range(s.streams):
            if s.mover[stream] == s.done[q, n]:
                s.floor[stream] = s.done_time[q, n]
        if left <= NONE:
            break
    return np.ceil(at + max(0.0, left) - now - NONE)
