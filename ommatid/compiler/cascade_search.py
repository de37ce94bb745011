"""Which layers to make in cascades: tried, and kept where an estimate of the cycles says that it is worth it.

The search begins at the layers that lose most against their roofline, and grows a cascade around each: by layers on
either side, by more or fewer stripes, as long as the cycles of the layers concerned fall.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from ommatid.compiler.aids import Aids
from ommatid.compiler.assemble import rooflines
from ommatid.compiler.cascade import Cascade, is_cascadable
from ommatid.compiler.layers import Network
from ommatid.compiler.trial import Estimate, Priced, Trials, priced
from ommatid.isa.target import Target

#: A cascade must save this part of all cycles; less may be an accident of what stands around it.
LEAST_GAIN = 0.001
#: Stripes of a cascade that are tried.
STRIPES = (1, 2, 3, 4, 6, 8, 11, 14, 20, 28, 40, 56, 80)
#: Layers more before and behind the one that a cascade begins with, and stripes, of which the last number is only for
#: what does not fit in fewer.
SIDES, FIRST_STRIPES = ((1, 0), (0, 1), (1, 1), (2, 0), (0, 2)), (1, 4, 14, 40)
#: Layers behind which neighbouring cascades may meet instead, that are tried.
MEETINGS = 2
#: A cascade that saves less than this part of what one must save, of the cycles that are left, is not grown.
WORTH_GROWING = 0.5
#: Of so many layers that the search will come to, helpers try the first cascades; layers between two of these, since
#: neighbours may end in one cascade.
AHEAD, BETWEEN = 4, 5
#: How a cascade grows: layers more before it and behind it, and by what its stripes are divided.
GROWTH = ((0, 1, 1), (0, 1, 2), (0, 2, 1), (0, 4, 1), (1, 0, 1), (2, 0, 1), (4, 0, 1))


def choose_cascades(
    network: Network, target: Target, estimate: Estimate, budgets: Sequence[int], aids: Aids | None = None
) -> Priced:
    """The network with cascades that make it faster: the best of what is found in so many trials, for each budget."""
    best = plain = priced(network, target, estimate)
    if len(network.layers) < 2:
        return plain
    aids = aids or Aids()
    trials = Trials(network, target, estimate, plain, aids)
    lost = list(np.diff(trials.ends, prepend=0.0) - rooflines(plain.made))
    tried: set[tuple[Cascade, ...]] = {()}
    with trials.helped():
        for trials.budget in budgets:
            found = _search(trials, lost, plain.cost[1])
            if found not in tried:
                best = min(best, priced(network, target, estimate, found), key=lambda each: each.cost)
            tried.add(found)
    return best


def _search(trials: Trials, lost: list[float], cycles: float) -> tuple[Cascade, ...]:
    """Cascades around the layers that lose most, as long as trials are left."""
    chosen: list[Cascade] = []
    done: set[int] = set()
    trials.cycles_now = cycles
    seeds = sorted(range(len(lost)), key=lambda i: -lost[i])
    seeds = [seed for seed in seeds if lost[seed] >= LEAST_GAIN * cycles]
    for at, seed in enumerate(seeds):
        if len(trials.asked) >= trials.budget:
            break
        if seed in done:
            continue
        done.add(seed)
        later = [other for other in seeds[at + 1 :] if other not in done]
        gain, best = _grow(trials, seed, chosen, _scattered(seed, later))
        if gain > LEAST_GAIN * cycles:
            chosen.append(best)
            done |= set(range(best.first, best.last + 1))
            trials.cycles_now -= gain
    return neighbours(trials, sorted(chosen, key=lambda c: c.first))


def _scattered(seed: int, later: Sequence[int]) -> list[int]:
    """Those of the layers that the search will come to which are not near the one that it is at, or one another."""
    apart = [seed]
    for layer in later:
        if len(apart) <= AHEAD and all(abs(layer - other) > BETWEEN for other in apart):
            apart.append(layer)
    return apart[1:]


def neighbours(trials: Trials, chosen: Sequence[Cascade]) -> tuple[Cascade, ...]:
    """Neighbouring cascades as one, or meeting where fewer bytes lie between them, where that is cheaper."""
    result: list[Cascade] = []
    for cascade in chosen:
        pair = (*result[-1:], cascade)
        if len(pair) > 1 and pair[0].last + 1 == cascade.first:
            others = [way for way in _ways_to_meet(trials, *pair) if all(map(trials.fits, way))]
            if others:
                pair = min([pair, *others], key=lambda way: trials.cycles(pair[0].first, cascade.last, *way))
        result[-1:] = pair
    return tuple(result)


def _ways_to_meet(trials: Trials, one: Cascade, two: Cascade) -> Iterator[tuple[Cascade, ...]]:
    """Two neighbouring cascades as one, and meeting at other layers, in as many stripes or in twice as many."""
    between = {at: trials.bytes_behind(at) for at in range(one.first, two.last)}
    fewer = sorted((at for at in between if between[at] < between[one.last]), key=lambda at: between[at])
    meetings = [[(one.first, two.last)], *([(one.first, at), (at + 1, two.last)] for at in fewer[:MEETINGS])]
    for ranges in meetings:
        if all(is_cascadable(trials.network, trials.storage, *each) for each in ranges):
            for parts in itertools.product((1, 2), repeat=len(ranges)):
                yield tuple(
                    Cascade(first, last, trials.pace(old, last, part))
                    for (first, last), old, part in zip(ranges, (one, two), parts, strict=False)
                )


def _grow(
    trials: Trials, seed: int, chosen: list[Cascade], later: Sequence[int] = ()
) -> tuple[float, Cascade]:
    """What the best cascade found around a layer saves, and it; nothing is saved by the layer alone. ``later`` are those
    that the search will come to."""
    taken = {i for c in chosen for i in range(c.first, c.last + 1)}
    best = (0.0, _alone(trials, seed))

    def around(of: Cascade, left: int, right: int, stripes: int) -> Cascade | None:
        """One with so many layers more on either side, where there can be one that is worth a trial."""
        first, last = of.first - left, of.last + right
        possible = is_cascadable(trials.network, trials.storage, first, last)
        if taken & set(range(first, last + 1)) or not possible:
            return None
        cascade = Cascade(first, last, max(1, -(-trials.height(last) // stripes)))
        return None if trials.reloads(cascade) else cascade

    def with_trial(cascade: Cascade | None) -> tuple[float, Cascade]:
        return max(best, (trials.saved(cascade), cascade), key=lambda pair: pair[0]) if cascade else best

    def firsts(layers: Sequence[int]) -> Iterator[Cascade | None]:
        ways = itertools.product((_alone(trials, layer) for layer in layers), SIDES, FIRST_STRIPES[:-1])
        return (around(alone, left, right, stripes) for alone, (left, right), stripes in ways)

    alone = best[1]
    trials.try_ahead(itertools.chain(reversed([*firsts([seed])]), firsts(later)))
    for side in SIDES:
        for stripes in FIRST_STRIPES[:-1] if best[0] else FIRST_STRIPES:
            cascade = around(alone, *side, stripes)
            best = with_trial(cascade)
            if cascade and trials.is_hopeless(cascade):
                break
    moved = best[0] > WORTH_GROWING * LEAST_GAIN * trials.cycles_now
    while moved and len(trials.asked) < trials.budget:
        before = best[1]
        stripes = math.ceil(trials.height(before.last) / before.each)
        place = min(range(len(STRIPES)), key=lambda i: abs(STRIPES[i] - stripes))
        growth = [(left, right, -(-stripes // fewer)) for left, right, fewer in GROWTH]
        growth += [(0, 0, near) for near in STRIPES[max(place - 2, 0) : place + 3]]
        trials.try_ahead(itertools.chain(firsts(later), (around(before, *way) for way in reversed(growth))))
        for way in growth:
            best = with_trial(around(best[1], *way))
        moved = best[1] != before
    return best


def _alone(trials: Trials, layer: int) -> Cascade:
    return Cascade(layer, layer, trials.height(layer))
