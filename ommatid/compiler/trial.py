"""Which layers to make in cascades: tried, and kept where an estimate of the cycles says that it is worth it.

The search begins at the layers that lose most against their roofline, and grows a cascade around each: by layers on
either side, by more or fewer stripes, as long as the cycles of the layers concerned fall. A trial lowers these layers
alone, with what lies in SRAM around them; one by one they cost what their part of the plain schedule does.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ommatid.compiler.aids import Aids, Found, elsewhere
from ommatid.compiler.assemble import bare_program, excerpt, rooflines
from ommatid.compiler.cascade import Cascade, height, is_cascadable
from ommatid.compiler.layers import Network
from ommatid.compiler.memory import lifetimes
from ommatid.compiler.outline import outline
from ommatid.compiler.schedule import (
    CascadeDoesNotFit,
    LayerDoesNotFit,
    Plan,
    Scheduled,
    lower,
    make_plan,
    schedule,
    stays_around,
)
from ommatid.compiler.storage import plan_storage
from ommatid.compiler.tile import DRAM_WEIGHT
from ommatid.isa.cost import dram_bytes
from ommatid.isa.program import Program, empty_program
from ommatid.isa.target import Target

Array = np.ndarray[Any, Any]
#: Finish cycles of each instruction of a program.
Estimate = Callable[[Program], Array]
#: DRAM bytes that the target does not have, and cycles.
Cost = tuple[int, float]
#: What a trial is of: layers first to last, and the cascades among them.
Trial = tuple[int, int, tuple[Cascade, ...]]
#: A cascade must save this part of all cycles; less may be an accident of what stands around it.
LEAST_GAIN = 0.001
#: Stripes of a cascade that are tried.
STRIPES = (1, 2, 3, 4, 6, 8, 11, 14, 20, 28, 40, 56, 80)
#: Layers more before and behind the one that a cascade begins with, and stripes, of which the last number is only for
#: what does not fit in fewer.
SIDES, FIRST_STRIPES = ((1, 0), (0, 1), (1, 1), (2, 0), (0, 2)), (1, 4, 14, 40)
#: Layers behind which neighbouring cascades may meet instead, that are tried.
MEETINGS = 2
#: A cascade that costs so many times as much as its layers one by one is not tried in more stripes.
HOPELESS = 1.25
#: A cascade that saves less than this part of what one must save, of the cycles that are left, is not grown.
WORTH_GROWING = 0.5
#: How a cascade grows: layers more before it and behind it, and by what its stripes are divided.
GROWTH = ((0, 1, 1), (0, 1, 2), (0, 2, 1), (0, 4, 1), (1, 0, 1), (2, 0, 1), (4, 0, 1))


def _nothing(trials: Sequence[Trial]) -> list[Found]:
    return []


@dataclass
class Trials:
    """The state of a search: what is known, and what was asked for, which counts for its budget; ``cycles_now`` are those
    of all layers, with what is chosen. ``plain`` is the bare program without cascades."""

    network: Network
    target: Target
    estimate: Estimate
    plain: Program
    aids: Aids = field(default_factory=Aids)
    budget: int = 1
    cycles_now: float = math.inf
    known: dict[Trial, float] = field(default_factory=dict)
    asked: set[Trial] = field(default_factory=set)  # for what was saved, too, that did not have to be tried
    elsewhere: Callable[[Sequence[Trial]], list[Found]] = _nothing

    def __post_init__(self) -> None:
        self.storage = plan_storage(self.network)
        self.lives = lifetimes(self.network, self.storage)

    def height(self, layer: int) -> int:
        """Rows that a layer is made by."""
        return height(self.network, self.network.layers[layer])

    def pace(self, cascade: Cascade, last: int, part: int) -> float:
        """Rows of layer ``last`` that are made while a stripe of a cascade is, divided by ``part``; in quarters of a row."""
        rows = cascade.each * self.height(last) / self.height(cascade.last)
        return max(round(4 * rows / part), 1) / 4

    def bytes_behind(self, layer: int) -> int:
        """Bytes of what is made up to a layer, and read behind it."""
        lives = self.lives.items()
        return sum(self.storage.buffer_bytes[name] for name, life in lives if life.first <= layer < life.last)

    def cycles(self, first: int, last: int, *cascades: Cascade) -> float:
        """Cycles of layers ``first`` to ``last``, one by one but for those in cascades, and a share of those in which the
        DRAM moves what they move; infinite if unfit."""
        trial = (first, last, cascades)
        if trial not in self.asked:
            self.asked.add(trial)
            count = len(self.asked)
            self.aids.say(f"trial {count:,}, {self.cycles_now:,.0f} cycles", min(count / self.budget, 1))
        if trial not in self.known:
            self.known[trial] = self.find(trial)[1] if cascades else self._apart(range(first, last + 1))
        return self.known[trial] if self.known[trial] >= 0 else math.inf

    def find(self, trial: Trial) -> Found:
        """The outline of a trial with cascades, and what it costs, which is the same for all of this outline.

        Layers are lowered as ``schedule`` does it, but for exact addresses: where a cascade does not fit beside what stays
        in SRAM, the largest of that moves to DRAM.
        """
        first, last, cascades = trial
        part, never, remembered = range(first, last + 1), frozenset[str](), self.aids.remembered
        while True:
            plan = make_plan(self.network, self.target, self.storage, cascades, never, touched=self.lives)
            alike = outline(plan, part)
            if alike not in remembered:
                remembered[alike] = self._lowered(plan, part, cascades)
            cost = remembered[alike]
            around = stays_around(plan, cascades[int(-1 - cost)]) if cost < 0 else []
            if not around:
                return alike, cost
            never |= {around[-1]}

    def _lowered(self, plan: Plan, part: range, cascades: tuple[Cascade, ...]) -> float:
        """Cycles; -1 - i: the i-th cascade does not fit."""
        try:
            program = bare_program(lower(plan, part))
        except CascadeDoesNotFit as problem:
            return -1 - cascades.index(problem.cascade)
        except LayerDoesNotFit:
            return math.inf
        return self._cost(program)

    def _apart(self, part: range) -> float:
        """What layers cost one by one: those of the plain schedule, alone."""
        return self._cost(excerpt(self.plain, part))

    def _cost(self, program: Program) -> float:
        moved = float(dram_bytes(program.instructions, self.target).sum())
        return float(self.estimate(program).max()) + DRAM_WEIGHT * moved / self.target.dram_bytes_per_cycle

    def is_hopeless(self, cascade: Cascade) -> bool:
        """It fits, and costs so much that more stripes, with yet more weights and rows to load again, cannot mend it."""
        first, last = cascade.first, cascade.last
        cycles = self.cycles(first, last, cascade)
        return cycles < math.inf and cycles > HOPELESS * self.cycles(first, last)

    def try_ahead(self, cascades: Iterable[Cascade | None]) -> None:
        """Have other processes try what is likely to be asked for."""
        trials = [(c.first, c.last, (c,)) for c in dict.fromkeys(cascades) if c is not None]
        trials = [trial for trial in trials if trial not in self.known]
        for trial, (alike, cost) in zip(trials, self.elsewhere(trials), strict=False):
            self.known[trial] = cost
            self.aids.remembered.setdefault(alike, cost)

    def saved(self, cascade: Cascade) -> float:
        """Cycles that a cascade saves; if it is unfit, its layers one by one need no trial."""
        first, last = cascade.first, cascade.last
        self.asked.add((first, last, ()))
        cycles = self.cycles(first, last, cascade)
        return -math.inf if cycles == math.inf else self.cycles(first, last) - cycles


@dataclass(frozen=True)
class Priced:
    """A schedule, with these cascades where they fit; its bare program, and when each instruction is finished."""

    made: Scheduled
    cascades: tuple[Cascade, ...]
    program: Program
    finish: Array

    @property
    def cost(self) -> Cost:
        """DRAM bytes that the target does not have, then cycles."""
        return self.made.lacking_bytes, float(self.finish.max(initial=0))


def priced(
    network: Network, target: Target, estimate: Estimate, cascades: tuple[Cascade, ...] = (), *way: tuple[Any, Any]
) -> Priced:  # fmt: skip
    """What ``schedule`` makes in some way, and what it costs."""
    made = schedule(network, target, cascades, *way)
    program = bare_program(made)
    return Priced(made, cascades, program, estimate(program))


def choose_cascades(
    network: Network, target: Target, estimate: Estimate, budgets: Sequence[int], aids: Aids | None = None
) -> Priced:
    """The network with cascades that make it faster: the best of what is found in so many trials, for each budget."""
    best = plain = priced(network, target, estimate)
    if len(network.layers) < 2:
        return plain
    aids = aids or Aids()
    trials = Trials(network, target, estimate, plain.program, aids)
    lost = _lost(plain.program, rooflines(plain.made), plain.finish)
    # for processes of their own, which try cascades alone
    apart = replace(trials, plain=empty_program(target), aids=Aids(dict(aids.remembered)))
    tried: set[tuple[Cascade, ...]] = {()}
    with elsewhere(apart.find, aids.processes) as trials.elsewhere:
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
    for seed in sorted(range(len(lost)), key=lambda i: -lost[i]):
        if lost[seed] < LEAST_GAIN * cycles or len(trials.asked) >= trials.budget:
            break
        if seed in done:
            continue
        done.add(seed)
        gain, best = _grow(trials, seed, chosen)
        if gain > LEAST_GAIN * cycles:
            chosen.append(best)
            done |= set(range(best.first, best.last + 1))
            trials.cycles_now -= gain
    return neighbours(trials, sorted(chosen, key=lambda c: c.first))


def neighbours(trials: Trials, chosen: Sequence[Cascade]) -> tuple[Cascade, ...]:
    """Neighbouring cascades as one, or meeting where fewer bytes lie between them, where that is cheaper."""
    result: list[Cascade] = []
    for cascade in chosen:
        pair = (*result[-1:], cascade)
        if len(pair) > 1 and pair[0].last + 1 == cascade.first:
            ways = [pair, *_ways_to_meet(trials, *pair)]
            pair = min(ways, key=lambda way: trials.cycles(pair[0].first, cascade.last, *way))
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


def _lost(program: Program, roofline: Sequence[float], finish: Array) -> list[float]:
    """Of each layer the cycles by which it lengthens the run beyond its roofline."""
    lost, before = [], 0.0
    for index, least in enumerate(roofline):
        mine = finish[program.layer_of == index]
        end = max(before, float(mine.max())) if len(mine) else before
        lost.append(end - before - least)
        before = end
    return lost


def _grow(trials: Trials, seed: int, chosen: list[Cascade]) -> tuple[float, Cascade]:
    """What the best cascade found around a layer saves, and it; nothing is saved by the layer alone."""
    taken = {i for c in chosen for i in range(c.first, c.last + 1)}
    best = (0.0, Cascade(seed, seed, trials.height(seed)))

    def around(of: Cascade, left: int, right: int, stripes: int) -> Cascade | None:
        """One with so many layers more on either side, where there can be one."""
        first, last = of.first - left, of.last + right
        possible = is_cascadable(trials.network, trials.storage, first, last)
        if taken & set(range(first, last + 1)) or not possible:
            return None
        return Cascade(first, last, max(1, -(-trials.height(last) // stripes)))

    def with_trial(cascade: Cascade | None) -> tuple[float, Cascade]:
        return max(best, (trials.saved(cascade), cascade), key=lambda pair: pair[0]) if cascade else best

    alone = best[1]
    trials.try_ahead(around(alone, *side, stripes) for side in SIDES for stripes in FIRST_STRIPES[:-1])
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
        trials.try_ahead(around(before, *way) for way in growth)
        for way in growth:
            best = with_trial(around(best[1], *way))
        moved = best[1] != before
    return best
