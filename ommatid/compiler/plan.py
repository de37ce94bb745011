"""The plan of a quantisation: found once, it holds for all shapes of a model's inputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from ommatid.compiler.calibration import samples
from ommatid.compiler.equalize import Array, is_fixed
from ommatid.compiler.errors import CompileError
from ommatid.compiler.form import Form, form_of
from ommatid.compiler.lint import Finding, lint
from ommatid.compiler.observe import Feeds, Observed, Run, observe, when_needed
from ommatid.compiler.observed_file import observed_once
from ommatid.compiler.qdq import QUANTISED, activations, stays_apart
from ommatid.compiler.ranges import Choice
from ommatid.compiler.recipe import EQUALIZED, LayerRecipe, Recipe, TensorRecipe, read_recipe, to_toml
from ommatid.compiler.search import Candidate, Search, adjusted

if TYPE_CHECKING:
    from ommatid.compiler.front import FrontOptions


@dataclass(frozen=True)
class Plan:
    """What is decided of a quantisation, by names of the canonical model.

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


def make_plan(model: ir.Model, options: FrontOptions) -> Plan:
    """How to quantise a canonical float model, which stays as it is.

    Raises:
        CompileError: the calibration data or the recipe cannot be used, or onnxruntime cannot run the model.
    """
    return plan_and_form(model, options)[0]


def plan_and_form(model: ir.Model, options: FrontOptions) -> tuple[Plan, Form | None]:
    """As ``make_plan``, and the QDQ model of that plan, if it was made to judge it.

    Without calibration data there is nothing to judge by: ranges are from the least to the greatest value.

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
    real, names = form_of(model), activations(model)
    run = when_needed(real, dict.fromkeys([*names, *(output.name or "" for output in model.graph.outputs)]))
    method = "minmax" if data is None and options.method == "auto" else options.method
    search = Search(model, run, feeds, given, method, options.percentile)
    observed = look(real, names, feeds, run, search.rectified(model).keys(), search.look)
    found = search.best(observed) if data is not None else search.plain(observed)
    apart = stays_apart(found.model, found.observed, found.choices) if options.cpu else frozenset()
    without = {node.outputs[0].name for node in found.model.graph if node.name in apart}
    choices = {name: choice for name, choice in found.choices.items() if name not in without}
    findings = lint(found.model, found.observed if data is not None else {}, choices)
    rounded = None if apart else search.forms.get(found)
    return Plan(choices, found.gains, found.shifts, apart, _recipe(found, given), tuple(findings)), rounded


def _observe(
    form: Form,
    names: Iterable[str],
    feeds: Callable[[], Iterable[Feeds]],
    run: Run,
    only_limits: Collection[str],
    each: Callable[[Mapping[str, Array]], None],
) -> dict[str, Observed]:
    return observe(form, names, feeds(), run, only_limits, each)


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


def _recipe(found: Candidate, given: Recipe) -> Recipe:
    """The recipe that makes this plan again from the same data."""
    tensors = {
        name: TensorRecipe(c.method, c.low, c.high, given.precision(name))
        for name, c in found.choices.items()
    }
    layers = {
        node.name or "": LayerRecipe(
            given.layer(node.name).precision, node.name in found.gains, node.name in found.shifts
        )
        for node in found.model.graph
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
