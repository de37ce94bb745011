"""What schedules cost by an estimate of their cycles: of a whole network, or, in a trial, of some layers of it in
cascades.

A trial lowers these layers alone, with what lies in SRAM around them; one by one they cost what their part of the plain
schedule does.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ommatid.compiler.aids import Aids, Found
from ommatid.compiler.assemble import bare_program, excerpt
from ommatid.compiler.cascade import Cascade, height, reloaded_bytes
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
#: A cascade that costs so many times as much as its layers one by one is not tried in more stripes.
HOPELESS = 1.25


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


def faster(best: Priced, network: Network, estimate: Estimate, aids: Aids | None = None) -> Priced:
    """The schedule, or that of another form of the network without cascades, if that is faster."""
    target, aids = best.made.plan.target, aids or Aids()
    aids.hear()
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
        aids.helpers.once(find)


def find_plain(network: Network, target: Target, estimate: Estimate, aids: Aids) -> Found:
    """The outline of a whole network without cascades, for one core, and its cycles; infinite if it is unfit."""
    plan = make_plan(network, target, plan_storage(network))
    alike = outline(plan, range(len(network.layers)))
    if alike not in aids.remembered:
        lacking, cycles = 0, math.inf
        with contextlib.suppress(LayerDoesNotFit):
            lacking, cycles = priced(network, target, estimate).cost
        aids.remembered[alike] = math.inf if lacking else cycles
    return alike, aids.remembered[alike]


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
        return self._cost_of(trial)

    def fits(self, cascade: Cascade) -> bool:
        """Whether a cascade fits if nothing is around it, which does not count for the budget."""
        return self._cost_of((cascade.first, cascade.last, (cascade,))) < math.inf

    def _cost_of(self, trial: Trial) -> float:
        first, last, cascades = trial
        if trial not in self.known:
            self.hear()
        if trial not in self.known:
            self.known[trial] = self.find(*trial)[1] if cascades else self._apart(range(first, last + 1))
        return self.known[trial] if self.known[trial] >= 0 else math.inf

    def find(self, first: int, last: int, cascades: tuple[Cascade, ...]) -> Found:
        """The outline of a trial with cascades, and what it costs, which is the same for all of this outline.

        Layers are lowered as ``schedule`` does it, but for exact addresses: where a cascade does not fit beside what stays
        in SRAM, the largest of that moves to DRAM.
        """
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
            helpers.end(self.task)

    def reloads(self, cascade: Cascade) -> bool:
        """Whether weights that it loads for stripe after stripe make a cascade hopeless, before it is tried."""
        before = self.ends[cascade.first - 1] if cascade.first else 0.0
        moved = reloaded_bytes(self.network, cascade, self.target)
        cycles = (1 + DRAM_WEIGHT) * moved / self.target.dram_bytes_per_cycle
        return cycles > HOPELESS * (self.ends[cascade.last] - before)

    def try_ahead(self, cascades: Iterable[Cascade | None]) -> None:
        """Have helpers try what is likely to be asked for, the first first."""
        if self.task:
            self.hear()
            trials = [(c.first, c.last, (c,)) for c in dict.fromkeys(cascades) if c is not None]
            self.aids.helpers.want(self.task, [trial for trial in trials if trial not in self.known])

    def hear(self) -> None:
        """Note what helpers found."""
        for task, trial, cost in self.aids.hear():
            if task == self.task:
                self.known.setdefault(trial, cost)

    def saved(self, cascade: Cascade) -> float:
        """Cycles that a cascade saves; if it is unfit, its layers one by one need no trial."""
        first, last = cascade.first, cascade.last
        self.asked.add((first, last, ()))
        cycles = self.cycles(first, last, cascade)
        return -math.inf if cycles == math.inf else self.cycles(first, last) - cycles


def _ends(plain: Priced) -> list[float]:
    """When each layer and all before it are finished."""
    ends = np.zeros(len(plain.made.plan.network.layers))
    inside = plain.program.layer_of >= 0
    np.maximum.at(ends, plain.program.layer_of[inside], plain.finish[inside])
    return list(np.maximum.accumulate(ends))
