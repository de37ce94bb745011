"""Which tensors are worth 16 bits: noise at the network's outputs against simulated cycles.

Tensors are chosen in groups, those that a layer of the 8-bit program writes. A group's noise is what its 8 bits add to
the outputs of the network in 16; its cycles are its share of what the layers at it take longer in the 16-bit program.
Groups get 16 bits by noise removed for a cycle. What counts is measured: prefixes of this order are compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from ommatid.compiler.front import FrontOptions
from ommatid.compiler.model import fixed_shape
from ommatid.compiler.plan import Plan
from ommatid.compiler.precision import Both, Switched, noise_over_signal, plan_both
from ommatid.compiler.qdq import with_moved
from ommatid.compiler.variants import largest, shape_variants
from ommatid.isa.program import Program
from ommatid.isa.target import Target
from ommatid.profiler.profile import profile
from ommatid.runtime.compile import compile_model

#: Samples that judge: a network that decides shows noise only where it is near to deciding otherwise.
JUDGES = 8
#: Without a wanted level: so much less than 16 bits everywhere reach.
WITHIN_DB = 3.0
#: Prefixes to compile besides the one that reaches the wanted level, by their share of the extra cycles as estimated.
SHARES = (0.05, 0.15, 0.3, 0.6)
#: The highest level of optimisation at which no layers are made together: a layer's cycles are its own.
APART = 1

Say = Callable[[str], None]


@dataclass(frozen=True)
class Point:
    """A mixture as measured: its tensors of 16 bits, signal over noise of the worst output, simulated cycles."""

    names: frozenset[str]
    sqnr_db: float
    cycles: int


@dataclass(frozen=True)
class Front:
    """Points that no other beats in both, by cycles; all in 8 and in 16 bits; the one chosen and its plan.

    ``wanted_db`` is the level to reach: if none does, the best is chosen.
    """

    points: tuple[Point, ...]
    eight: Point
    sixteen: Point
    chosen: Point
    wanted_db: float
    plan: Plan

    def extra(self, point: Point) -> float:
        """Cycles over those in 8 bits, as a share of what 16 bits everywhere take longer."""
        return (point.cycles - self.eight.cycles) / max(self.sixteen.cycles - self.eight.cycles, 1)

    def to_list(self) -> list[dict[str, Any]]:
        """The points as plain data (design 7)."""
        return [
            {
                "sqnr_db": p.sqnr_db, "cycles": p.cycles, "extra_share": self.extra(p), "int16_tensors": len(p.names),
                "chosen": p is self.chosen,
            }
            for p in self.points
        ]  # fmt: skip


def choose_precision(
    source: Any, target: str | Target, optimize: int, options: FrontOptions, shapes: Mapping[str, Any],
    wanted_db: float | None = None, say: Say = lambda _: None,
) -> Front:  # fmt: skip
    """The front of a float model on a target, at its largest variant.

    Raises:
        CompileError: the model is quantised already, or cannot be compiled.
    """
    options = replace(options, shapes=largest(shape_variants(shapes)))
    both = plan_both(source, options)
    switched = Switched(both, options, JUDGES)

    def compiled(names: Collection[str], level: int = optimize) -> Program:
        say(f"compiling with {len(names)} tensors of 16 bits")
        return compile_model(
            source, target, level, shapes=options.shapes, plan=both.mixed(names), **_cut(options)
        )

    def point(names: Collection[str]) -> Point:
        wide = with_moved(both.real, both.always.union(names)).intersection(switched.names)
        return Point(wide, switched.sqnr_db(names), profile(compiled(names)).cycles)

    everything = frozenset(switched.names)
    programs = compiled((), min(optimize, APART)), compiled(everything, min(optimize, APART))
    eight, sixteen = point(()), point(everything)
    wanted = sixteen.sqnr_db - WITHIN_DB if wanted_db is None else wanted_db
    prefixes = _prefixes(both, switched, programs, say)
    found = [eight, sixteen, *(point(names) for names in _to_verify(prefixes, switched, wanted))]
    points = _unbeaten(found)
    enough = [p for p in points if p.sqnr_db >= wanted]
    chosen = enough[0] if enough else points[-1]
    return Front(points, eight, sixteen, chosen, wanted, both.mixed(chosen.names))


def _cut(options: FrontOptions) -> dict[str, Any]:
    return {"inputs": options.inputs, "outputs": options.outputs, "cpu": options.cpu}


def _unbeaten(points: Sequence[Point]) -> tuple[Point, ...]:
    """Those than which none has both fewer cycles and less noise, by cycles."""
    best: list[Point] = []
    for p in sorted(points, key=lambda p: (p.cycles, -p.sqnr_db)):
        if not best or p.sqnr_db > best[-1].sqnr_db:
            best.append(p)
    return tuple(best)


# --- the order ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prefix:
    """The first groups of the order, and the cycles that they are estimated to add (a share of all)."""

    names: frozenset[str]
    share: float


def _prefixes(both: Both, switched: Switched, programs: tuple[Program, Program], say: Say) -> list[Prefix]:
    """Groups of tensors by noise removed for a cycle, one after the other."""
    rows = rows_of(both.real, [layer.name for layer in programs[0].layers])
    groups = groups_of(both.real, rows, switched.names)
    cost = costs(both.real, rows, groups, programs)
    base = switched.outputs(switched.names)
    worth = {}
    for number, (key, names) in enumerate(groups.items()):
        say(f"noise of group {number + 1} of {len(groups)}")
        noise = noise_over_signal(base, switched.outputs(set(switched.names) - names))
        worth[key] = sum(noise) / max(cost[key], 1.0)
    total, names, spent, result = max(sum(cost.values()), 1.0), frozenset[str](), 0.0, []
    for key in sorted(groups, key=lambda key: -worth[key]):
        names, spent = names | groups[key], spent + cost[key]
        result.append(Prefix(names, spent / total))
    return result


def rows_of(model: ir.Model, layers: Collection[str]) -> dict[str, str]:
    """By the name of a node, the layer that computes it: its own, or that of what it reads."""
    own, found = set(layers), dict[str, str]()
    for node in model.graph:
        makers = [v.producer() for v in node.inputs if v is not None]
        before = [found[m.name or ""] for m in makers if m is not None and m.name in found]
        name = node.name or ""
        found[name] = name if name in own or not before else before[0]
    return found


def groups_of(model: ir.Model, rows: Mapping[str, str], names: Collection[str]) -> dict[str, frozenset[str]]:
    """Tensors that get 16 bits together: those that a layer writes, and what holds the same codes."""
    groups: dict[str, frozenset[str]] = {}
    taken: set[str] = set()
    for value in _values(model):
        if value.name not in names or value.name in taken:
            continue
        maker = value.producer()
        key = rows[maker.name or ""] if maker is not None else value.name or ""
        more = with_moved(model, [value.name or ""]).intersection(names)
        groups[key] = groups.get(key, frozenset()) | more
        taken |= more
    return groups


def _values(model: ir.Model) -> list[ir.Value]:
    return [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]


def costs(
    model: ir.Model,
    rows: Mapping[str, str],
    groups: Mapping[str, frozenset[str]],
    programs: tuple[Program, Program],
) -> dict[str, float]:
    """Cycles that each group is estimated to add.

    What a layer takes longer is due to what it reads and writes, by size; if the MAC array bounds it, to what it reads.
    """
    narrow, wide = ({row.name: row for row in profile(p).layers} for p in programs)
    group = {name: key for key, names in groups.items() for name in names}
    longer: dict[str, float] = {}
    for name, row in wide.items():
        layer = rows.get(name.partition("@")[0])
        if layer is not None:
            longer[layer] = longer.get(layer, 0.0) + row.cycles
    result = dict.fromkeys(groups, 0.0)
    for layer, cycles in longer.items():
        extra = cycles - (narrow[layer].cycles if layer in narrow else 0)
        sizes = _touched(model, rows, layer, layer in wide and wide[layer].bound == "mx")
        known = {name: size for name, size in sizes.items() if name in group}
        for name, size in known.items():
            result[group[name]] += max(extra, 0.0) * size / sum(known.values())
    return result


def _touched(model: ir.Model, rows: Mapping[str, str], layer: str, reads_only: bool) -> dict[str, int]:
    """Sizes of the tensors that a layer reads from others, and of those that it writes."""
    found: dict[str, int] = {}
    for node in model.graph:
        if rows[node.name or ""] != layer:
            continue
        for value in (*node.inputs, *(() if reads_only else node.outputs)):
            maker = value.producer() if value is not None else None
            inner = maker is not None and rows[maker.name or ""] == layer and value in node.inputs
            if value is not None and not inner and value.const_value is None:
                found[value.name or ""] = math.prod(fixed_shape(value) or ())
    return found


# --- what to compile ------------------------------------------------------------------------------------------


def _to_verify(prefixes: Sequence[Prefix], switched: Switched, wanted_db: float) -> list[frozenset[str]]:
    """Some prefixes over the range of cycles, and the shortest that reaches the level, as far as it grows with them."""
    low, high = 0, len(prefixes)
    while low < high:
        middle = (low + high) // 2
        if switched.sqnr_db(prefixes[middle].names) >= wanted_db:
            high = middle
        else:
            low = middle + 1
    places = {low} if low < len(prefixes) else set()
    for share in SHARES:
        places |= {next(i for i, p in enumerate(prefixes) if p.share >= share or p is prefixes[-1])}
    return [prefixes[i].names for i in sorted(places)]
