"""Which layers to make in cascades: tried, and kept where an estimate of the cycles says that it is worth it.

The search begins at the layers that lose most against their roofline, and grows a cascade around each: by layers on
either side, by more or fewer stripes, as long as the cycles of the layers concerned fall. A trial lowers these layers
alone, with what lies in SRAM around them; one by one they cost what their part of the plain schedule does.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ommatid.compiler.aids import Aids, Found
from ommatid.compiler.assemble import bare_program, excerpt, rooflines
from ommatid.compiler.cascade import Cascade, height, is_cascadable, reloaded_bytes
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
from ommatid.isa.program import Program
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
#: Of so many layers that the search will come to, helpers try the first cascades; layers between two of these, since
#: neighbours may end in one cascade.
AHEAD, BETWEEN = 4, 5
#: How a cascade grows: layers more before it and behind it, and by what its stripes are divided.
GROWTH = ((0, 1, 1), (0, 1, 2), (0, 2, 1), (0, 4, 1), (1, 0, 1), (2, 0, 1), (4, 0, 1))


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


@dataclass
class Trials:
    """The state of a search: what is known, and what was asked for, which counts for its budget; ``cycles_now`` are those
    of all layers, with what is chosen. ``plain`` is the schedule without cascades; a helper, which tries these alone, has
    none."""

    network: Network
    target: Target
    estimate: Estimate
    plain: Priced | None
    aids: Aids = field(default_factory=Aids)
    budget: int = 1
    cycles_now: float = math.inf
    known: dict[Trial, float] = field(default_factory=dict)
    asked: set[Trial] = field(default_factory=set)  # for what was saved, too, that did not have to be tried
    task: int = 0  # of helpers

    def __post_init__(self) -> None:
        self.storage = plan_storage(self.network)
        self.lives = lifetimes(self.network, self.storage)
        self.ends = _ends(self.plain) if self.plain else []

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
            self._hear()
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
        assert self.plain is not None
        return self._cost(excerpt(self.plain.program, part))

    def _cost(self, program: Program) -> float:
        moved = float(dram_bytes(program.instructions, self.target).sum())
        return float(self.estimate(program).max()) + DRAM_WEIGHT * moved / self.target.dram_bytes_per_cycle

    def is_hopeless(self, cascade: Cascade) -> bool:
        """It fits, and costs so much that more stripes, with yet more weights and rows to load again, cannot mend it."""
        first, last = cascade.first, cascade.last
        cycles = self.cycles(first, last, cascade)
        return cycles < math.inf and cycles > HOPELESS * self.cycles(first, last)

    @contextlib.contextmanager
    def helped(self) -> Iterator[None]:
        """While helpers try cascades ahead."""
        if not (helpers := self.aids.helpers):
            yield
            return
        apart = replace(self, plain=None, aids=Aids(dict(self.aids.remembered)))
        self.task = helpers.begin(apart.find)
        try:
            yield
        finally:
            helpers.want(self.task, ())
            helpers.end(self.task)

    def fits(self, cascade: Cascade) -> bool:
        """Whether a cascade fits if nothing is around it."""
        trial = (cascade.first, cascade.last, (cascade,))
        if trial not in self.known:
            self.known[trial] = self.find(trial)[1]
        return 0 <= self.known[trial] < math.inf

    def reloads(self, cascade: Cascade) -> bool:
        """Whether weights that it loads for stripe after stripe make a cascade hopeless, before it is tried."""
        before = self.ends[cascade.first - 1] if cascade.first else 0.0
        moved = reloaded_bytes(self.network, cascade, self.target)
        cycles = (1 + DRAM_WEIGHT) * moved / self.target.dram_bytes_per_cycle
        return cycles > HOPELESS * (self.ends[cascade.last] - before)

    def try_ahead(self, cascades: Iterable[Cascade | None]) -> None:
        """Have helpers try what is likely to be asked for, the first first."""
        if self.task:
            self._hear()
            trials = [(c.first, c.last, (c,)) for c in dict.fromkeys(cascades) if c is not None]
            self.aids.helpers.want(self.task, [trial for trial in trials if trial not in self.known])

    def _hear(self) -> None:
        """Note what helpers found."""
        for task, trial, cost in self.aids.heard():
            if task == self.task:
                self.known.setdefault(trial, cost)

    def saved(self, cascade: Cascade) -> float:
        """Cycles that a cascade saves; if it is unfit, its layers one by one need no trial."""
        first, last = cascade.first, cascade.last
        self.asked.add((first, last, ()))
        cycles = self.cycles(first, last, cascade)
        return -math.inf if cycles == math.inf else self.cycles(first, last) - cycles


def priced(
    network: Network, target: Target, estimate: Estimate, cascades: tuple[Cascade, ...] = (), *way: tuple[Any, Any]
) -> Priced:  # fmt: skip
    """What ``schedule`` makes in some way, and what it costs."""
    made = schedule(network, target, cascades, *way)
    program = bare_program(made)
    return Priced(made, cascades, program, estimate(program))


def faster(best: Priced, network: Network, estimate: Estimate, aids: Aids | None = None) -> Priced:
    """The schedule, or that of another form of the network without cascades, if that is faster."""
    target, aids = best.made.plan.target, aids or Aids()
    for _ in aids.heard():
        pass  # it is remembered
    lacking, cycles = best.cost
    if target.cores == 1 and not lacking and find_plain(network, target, estimate, aids)[1] >= cycles:
        return best
    try:
        return min(best, priced(network, target, estimate), key=lambda each: each.cost)
    except LayerDoesNotFit:
        return best


def find_ahead(network: Network, target: Target, estimate: Estimate, aids: Aids) -> None:
    """Have a helper find what ``faster`` will ask for."""
    if aids.helpers and target.cores == 1:
        find = functools.partial(find_plain, network, target, estimate, Aids(dict(aids.remembered)))
        task = aids.helpers.begin(find)
        aids.helpers.want(task, ["whole"])
        aids.helpers.end(task)


def find_plain(network: Network, target: Target, estimate: Estimate, aids: Aids, key: str = "whole") -> Found:
    """The outline of a whole network without cascades, for one core, and its cycles; infinite if it is unfit."""
    plan = make_plan(network, target, plan_storage(network))
    alike = f"{outline(plan, range(len(network.layers)))}-{key}"
    if alike not in aids.remembered:
        lacking, cycles = 0, math.inf
        with contextlib.suppress(LayerDoesNotFit):
            lacking, cycles = priced(network, target, estimate).cost
        aids.remembered[alike] = math.inf if lacking else cycles
    return alike, aids.remembered[alike]


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


def _ends(plain: Priced) -> list[float]:
    """When each layer and all before it are finished."""
    ends = np.zeros(len(plain.made.plan.network.layers))
    inside = plain.program.layer_of >= 0
    np.maximum.at(ends, plain.program.layer_of[inside], plain.finish[inside])
    return list(np.maximum.accumulate(ends))


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
