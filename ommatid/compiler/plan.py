"""The plan of a quantisation: ranges, equalised channels and corrected biases.

Ranges are chosen by the error that they leave at the tensor. Channels are equalised where that lowers the error of
the convolution that reads them, biases corrected if the network's outputs then come nearer to those in float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ommatid.compiler.calibration import samples
from ommatid.compiler.correct import correct_bias, helpful_gains, proto_of, shift
from ommatid.compiler.equalize import EQUALIZED, Array, equalize, is_fixed, pairs
from ommatid.compiler.errors import CompileError
from ommatid.compiler.lint import Finding, lint
from ommatid.compiler.observe import Feeds, Observed, observe, runner
from ommatid.compiler.observed_file import observed_once
from ommatid.compiler.qdq import QUANTISED, activations, share_ranges, stays_apart, to_qdq
from ommatid.compiler.ranges import METHODS, Choice, choose
from ommatid.compiler.readers import limits, views
from ommatid.compiler.recipe import LayerRecipe, Recipe, TensorRecipe, read_recipe, to_toml

if TYPE_CHECKING:
    from ommatid.compiler.front import FrontOptions

#: So many samples judge whether equalisation and bias correction help.
JUDGES = 4


@dataclass(frozen=True)
class Plan:
    """What is decided of a quantisation, by names of the canonical model: it holds for all shapes of the inputs.

    A range for each tensor to quantise; gains by channel (float64) of equalised pairs, by the name of their second
    convolution; shifts by channel (float64) to take back in biases, by the name of the convolution; nodes that stay in
    float; the recipe that makes the same plan again from the same data, and what the lint found.
    """

    choices: Mapping[str, Choice]
    gains: Mapping[str, Array]
    shifts: Mapping[str, Array]
    apart: frozenset[str]
    recipe: Recipe
    findings: tuple[Finding, ...]

    def notes(self) -> dict[str, Any]:
        """What a program says of its quantisation, as plain data."""
        return {"recipe": to_toml(self.recipe), "findings": [finding.to_dict() for finding in self.findings]}


def prepared(model: ir.Model, plan: Plan) -> ir.Model:
    """A copy of a canonical float model with the weights and biases to quantise.

    Raises:
        CompileError: the plan is of another graph.
    """
    copy = adjusted(model, plan.gains, plan.shifts)
    for node in copy.graph:
        for value in (*node.inputs, *node.outputs) if node.op_type in QUANTISED else ():
            if value is None or value.const_value is not None or value.dtype != ir.DataType.FLOAT:
                continue
            maker = value.producer()
            if value.name not in plan.choices and not (maker is not None and maker.name in plan.apart):
                raise CompileError(
                    f"tensor {value.name!r} does not exist at the shape where ranges were found",
                    "the graph differs between these shapes: compile this one alone", node.name or "",
                )  # fmt: skip
    return copy


def adjusted(model: ir.Model, gains: Mapping[str, Array], shifts: Mapping[str, Array]) -> ir.Model:
    """A copy with equalised channels and corrected biases."""
    copy = ir.from_proto(ir.to_proto(model))
    copy.metadata_props.update(model.metadata_props)
    for pair in pairs(copy):
        if (gain := gains.get(pair.second.name or "")) is not None:
            equalize(copy, pair, gain)
    for node in copy.graph:
        if (shift := shifts.get(node.name or "")) is not None:
            correct_bias(copy, node, shift)
    return copy


def make_plan(model: ir.Model, options: FrontOptions) -> Plan:
    """How to quantise a canonical float model, which stays as it is.

    Raises:
        CompileError: the calibration data or the recipe cannot be used, or onnxruntime cannot run the model.
    """
    given = options.recipe or Recipe(options.activations)
    if not isinstance(given, Recipe):
        given = read_recipe(given)
    _check(given, model, options)
    data = options.calibration
    if isinstance(data, Iterator):  # which can be read only once
        data = list(data)

    def feeds() -> Iterable[Feeds]:
        for number, sample in enumerate(samples(model, data, options.preprocess)):
            if options.progress is not None:
                options.progress(f"calibrating, sample {number + 1}")
            yield sample

    look = observed_once if isinstance(data, str | Path) else _observe
    observed = look(proto_of(model), activations(model), feeds)
    search = _Search(model, observed, feeds, given, options.method, options.percentile, data is not None)
    search.equalize()
    search.correct()
    choices = dict(search.choices)
    apart = stays_apart(search.model, search.observed, choices) if options.cpu else frozenset()
    for node in search.model.graph:
        if node.name in apart:
            choices.pop(node.outputs[0].name or "", None)
    findings = lint(search.model, search.observed if search.judged else {}, choices)
    return Plan(choices, search.gains, search.shifts, apart, _recipe(search, given), tuple(findings))


def _observe(model: Any, names: Iterable[str], feeds: Callable[[], Iterable[Feeds]]) -> dict[str, Observed]:
    return observe(model, names, feeds())


@dataclass
class _Search:
    """The best plan so far. Without data there is nothing to judge by: the ranges alone are planned."""

    model: ir.Model
    observed: dict[str, Observed]
    feeds: Callable[[], Iterable[Feeds]]
    given: Recipe
    method: str
    percent: float
    judged: bool

    def __post_init__(self) -> None:
        if self.method not in ("auto", *METHODS):
            raise CompileError(
                f"unknown calibration method {self.method!r}", f"use one of auto, {', '.join(METHODS)}"
            )
        if not self.judged and self.method == "auto":
            self.method = "minmax"  # random input says nothing of what may be cut off
        self.original = self.model
        self.proposed: dict[str, Choice] = {}
        self.choices = self.ranges()
        self.gains: dict[str, Array] = {}
        self.shifts: dict[str, Array] = {}

    def ranges(self) -> dict[str, Choice]:
        """A range for every tensor observed: the recipe's, or by the method; alike where tensors share one."""
        values = ir.convenience.create_value_mapping(self.model.graph)
        for name, seen in self.observed.items():
            if name not in self.proposed:
                entry = self.given.tensors.get(name, TensorRecipe())
                by = self.method if entry.method == "auto" else entry.method
                d = seen.histogram.distribution(*limits(values[name]))
                methods = METHODS if by == "auto" else (by,)
                self.proposed[name] = choose(d, views(values[name]), methods, self.percent)
        choices = {name: self.proposed[name] for name in self.observed}
        share_ranges(self.model, choices)
        for name, entry in self.given.tensors.items():
            if entry.low is not None and entry.high is not None and name in choices:
                choices[name] = replace(choices[name], low=entry.low, high=entry.high, method=entry.method)
        return choices

    def judges(self) -> list[Feeds]:
        """The samples that judge."""
        return list(islice(self.feeds(), JUDGES))

    def equalize(self) -> None:
        """Equalise pairs of convolutions: those of the recipe, or of those that it leaves open where it helps."""
        found = pairs(self.original)
        wanted = self._wanted(found, lambda pair: self.given.layer(pair.second.name).equalize)
        if not self.judged or not wanted:
            return
        asked = any(self.given.layer(pair.second.name).equalize for pair in wanted)
        self.gains = helpful_gains(self.original, wanted, self.observed, self.judges(), not asked)
        if self.gains:
            self.model = adjusted(self.original, self.gains, {})
            names = [value.name or "" for p in found if p.second.name in self.gains for value in p.between]
            seen = {name: o for name, o in self.observed.items() if name not in names}
            new = [f"{name}{EQUALIZED}" for name in names]
            self.observed = {**seen, **observe(proto_of(self.model), new, self.feeds())}
            self.choices = self.ranges()

    def correct(self) -> None:
        """Correct biases: those of the recipe, or those that it leaves open if that helps."""
        convs = [node for node in self.model.graph if is_fixed(node)]
        wanted = self._wanted(convs, lambda node: self.given.layer(node.name).correct_bias)
        if not self.judged or not wanted:
            return
        asked = any(self.given.layer(node.name).correct_bias for node in wanted)
        seen = [(node, self.observed[_read(node)]) for node in wanted if _read(node) in self.observed]
        shifts = {node.name or "": shift(node, of_read) for node, of_read in seen}
        trial = adjusted(self.original, self.gains, shifts)
        if asked or self._output_error(trial) < self._output_error(self.model):
            self.model, self.shifts = trial, shifts

    def _wanted(self, candidates: list[Any], says: Callable[[Any], bool | None]) -> list[Any]:
        """Those that the recipe asks for; if it names none, those that it leaves open, unless a method was named."""
        asked = [c for c in candidates if says(c)]
        return asked or [c for c in candidates if says(c) is None and self.method == "auto"]

    def _output_error(self, model: ir.Model) -> float:
        """Noise over signal of the network's outputs, the mean of all outputs and of the samples that judge."""
        names = [o.name or "" for o in model.graph.outputs]
        real = runner(proto_of(self.original), names, optimize=True)
        rounded = runner(to_qdq(model, self.choices, self.given.activations), names, optimize=True)
        errors = []
        for feeds in self.judges():
            a, b = real(feeds), rounded(feeds)
            both = [(np.asarray(a[n], np.float64), np.asarray(b[n], np.float64)) for n in names]
            errors += [((x - y) ** 2).sum() / max((x**2).sum(), 1e-30) for x, y in both]
        return float(np.mean(errors))


def _read(conv: ir.Node) -> str:
    """The name of the tensor that a convolution reads."""
    return (conv.inputs[0].name or "") if conv.inputs[0] is not None else ""


def _recipe(search: _Search, given: Recipe) -> Recipe:
    """The recipe that makes this plan again from the same data."""
    tensors = {name: TensorRecipe(c.method, c.low, c.high) for name, c in search.choices.items()}
    layers = {
        node.name or "": LayerRecipe(
            given.layer(node.name).precision, node.name in search.gains, node.name in search.shifts
        )
        for node in search.model.graph
        if is_fixed(node)
    }
    others = {n: e for n, e in given.layers.items() if n not in layers}
    return Recipe(given.activations, tensors, {**layers, **others})


def _check(recipe: Recipe, model: ir.Model, options: FrontOptions) -> None:
    known: dict[str, set[str]] = {
        "tensor": set(activations(model)),
        "layer": {n.name or "" for n in model.graph},
    }
    for kind, names in (("tensor", recipe.tensors.keys()), ("layer", recipe.layers.keys())):
        for name in names:
            if name.removesuffix(EQUALIZED) not in known[kind]:
                raise CompileError(
                    f"recipe: the model has no {kind} {name!r} to quantise",
                    "names are those of the canonical model: see --save-recipe", name,
                )  # fmt: skip
    if options.calibration is None and any(e.equalize or e.correct_bias for e in recipe.layers.values()):
        raise CompileError(
            "the recipe equalises channels or corrects biases, which needs data",
            "give the --calibration that it was made with",
        )
