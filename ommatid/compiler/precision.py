"""8 or 16 bits, tensor by tensor: a plan of each, mixtures of both, and what either does to a network's outputs.

All mixtures run in one onnxruntime session: each rounding is written as arithmetic, whose scale and limits are inputs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from ommatid.compiler.calibration import samples
from ommatid.compiler.canonicalize import canonicalize
from ommatid.compiler.errors import CompileError
from ommatid.compiler.form import Form, form_of
from ommatid.compiler.front import FrontOptions, is_quantized, read_model
from ommatid.compiler.model import CONTRIBUTED, QUANTIZERS
from ommatid.compiler.observe import runner
from ommatid.compiler.plan import Plan, make_plan, prepared
from ommatid.compiler.qdq import sixteen, with_moved
from ommatid.compiler.quantize import quantize
from ommatid.compiler.recipe import Recipe, TensorRecipe, read_recipe
from ommatid.isa.elements import NUMBER, TYPES

Array = np.ndarray[Any, Any]
#: Scale of a tensor, its least and its greatest number.
STEPS = ("ommatid.scale", "ommatid.low", "ommatid.high")


@dataclass(frozen=True)
class Both:
    """A canonical float model with plans of its quantisation to 8 and to 16 bits, of the same weights and biases.

    ``always`` are the tensors that have 16 bits in both.
    """

    model: ir.Model
    eight: Plan
    sixteen: Plan
    always: frozenset[str]

    @cached_property
    def real(self) -> ir.Model:
        """The float model with the weights and biases to quantise."""
        return prepared(self.model, self.eight)

    def mixed(self, names: Collection[str]) -> Plan:
        """The plan in which these tensors, and what holds their codes, have 16 bits."""
        wide = with_moved(self.real, self.always.union(names))
        choices = {
            n: self.sixteen.choices.get(n, choice) if n in wide else choice
            for n, choice in self.eight.choices.items()
        }
        tensors = {
            n: TensorRecipe(c.method, c.low, c.high, "int16" if n in wide else None)
            for n, c in choices.items()
        }
        layers = {n: replace(e, precision=None) for n, e in self.eight.recipe.layers.items()}
        return replace(
            self.eight, choices=choices, recipe=replace(self.eight.recipe, tensors=tensors, layers=layers)
        )


def plan_both(source: Any, options: FrontOptions) -> Both:
    """Plans of a float model.

    Raises:
        CompileError: the model is quantised already, or it, the recipe or the calibration data cannot be used.
    """
    model = read_model(source, options)
    if is_quantized(model):
        raise CompileError(
            "the model is quantised already: its precision cannot be chosen", "give the float model"
        )
    model = canonicalize(model)
    given = options.recipe or Recipe(options.activations)
    given = given if isinstance(given, Recipe) else read_recipe(given)
    eight = make_plan(model, replace(options, recipe=given))
    tensors = {n: replace(given.tensors.get(n, TensorRecipe()), precision="int16") for n in eight.choices}
    wide = make_plan(model, replace(options, recipe=replace(eight.recipe, tensors=tensors)))
    return Both(model, eight, wide, sixteen(prepared(model, eight), eight.recipe))


class Switched:
    """A quantised network in one session, of which each run says which tensors have 16 bits."""

    def __init__(self, both: Both, options: FrontOptions, judges: int) -> None:
        eight, wide = (quantize(both.model, plan) for plan in (both.eight, both.mixed(both.sixteen.choices)))
        steps = _steps(eight), _steps(wide)
        self.names = tuple(n for n in steps[1] if n in steps[0])
        self._steps = [np.array([each[n] for n in self.names], np.float32) for each in steps]
        self._both = both
        self._outputs = [o.name or "" for o in both.model.graph.outputs]
        self._run = runner(_with_arithmetic(form_of(wide), self.names), self._outputs, optimize=True)
        self._feeds = [
            f
            for _, f in zip(
                range(judges), samples(both.model, options.calibration, options.preprocess), strict=False
            )
        ]
        real = runner(form_of(both.model), self._outputs, optimize=True)
        self._real = [self._listed(real(feeds)) for feeds in self._feeds]

    def outputs(self, wide: Collection[str]) -> list[list[Array]]:
        """The outputs (float32) for each sample."""
        names = with_moved(self._both.real, self._both.always.union(wide))
        chosen = np.array([n in names for n in self.names])[:, None]
        rows = np.where(chosen, self._steps[1], self._steps[0]).T
        given = dict(zip(STEPS, np.ascontiguousarray(rows), strict=True))
        return [self._listed(self._run({**feeds, **given})) for feeds in self._feeds]

    def sqnr_db(self, wide: Collection[str]) -> float:
        """Signal over noise of the output that has the least."""
        noise = noise_over_signal(self._real, self.outputs(wide))
        return float(-10 * np.log10(max(*noise, 1e-30)))

    def _listed(self, found: Mapping[str, Array]) -> list[Array]:
        return [np.asarray(found[name], np.float32) for name in self._outputs]


def noise_over_signal(real: Sequence[Sequence[Array]], other: Sequence[Sequence[Array]]) -> list[float]:
    """Of each output, over all samples ([sample][output])."""
    pairs = zip(zip(*real, strict=True), zip(*other, strict=True), strict=True)
    return [
        sum(_power(a - b) for a, b in zip(x, y, strict=True)) / max(sum(map(_power, x)), 1e-30)
        for x, y in pairs
    ]


def _power(x: Array) -> float:
    return float(np.vdot(x, x))


def _steps(model: ir.Model) -> dict[str, tuple[float, ...]]:
    """Scale, least and greatest number of the tensors that a QDQ model rounds."""
    found: dict[str, tuple[float, ...]] = {}
    for node in model.graph:
        source = node.inputs[0] if node.op_type == "QuantizeLinear" else None
        if source is None or source.const_value is not None:
            continue
        scale, zero = (
            v.const_value.numpy() for v in node.inputs[1:] if v is not None and v.const_value is not None
        )
        kind = TYPES[NUMBER[str(zero.dtype)]]
        limits = (float(scale) * (limit - int(zero)) for limit in (kind.low, kind.high))
        found[_original(source.name or "")] = (float(scale), *limits)
    return found


def _original(name: str) -> str:
    """The tensor's name in the float model: onnxruntime's quantiser renames the network's outputs before their rounding."""
    return name.removesuffix("_QuantizeLinear_Input")


def _with_arithmetic(form: Form, names: Sequence[str]) -> Form:
    """The QDQ model with the roundings of these tensors as arithmetic, by rows of ``STEPS``."""
    model, at = form.proto, {name: i for i, name in enumerate(names)}
    graph = model.graph
    quantizers = [n for n in graph.node if n.op_type == QUANTIZERS[0] and _original(n.input[0]) in at]
    rounded = {n.output[0]: n.input[0] for n in quantizers}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == QUANTIZERS[0] and node.output[0] in rounded:
            name = node.input[0]
            nodes += _rounding(name)
            row = np.array(at[_original(name)], np.int64)
            graph.initializer.append(numpy_helper.from_array(row, f"{name}@row"))
        elif node.op_type == QUANTIZERS[1] and node.input[0] in rounded:
            nodes.append(
                helper.make_node("Identity", [f"{rounded[node.input[0]]}@rounded"], [node.output[0]])
            )
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int16), "ommatid.zero"))
    graph.input.extend(helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [len(names)]) for n in STEPS)
    if CONTRIBUTED not in {o.domain for o in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(CONTRIBUTED, 1))
    return form


def _rounding(name: str) -> list[onnx.NodeProto]:
    """Clamped, then rounded to whole steps: those of 8 bits fit in 16, too."""
    make = helper.make_node
    scale, low, high = (f"{name}@{each}" for each in STEPS)
    return [
        *(make("Gather", [steps, f"{name}@row"], [f"{name}@{steps}"]) for steps in STEPS),
        make("Clip", [name, low, high], [f"{name}@clipped"]),
        make(
            QUANTIZERS[0], [f"{name}@clipped", scale, "ommatid.zero"], [f"{name}@codes"], domain=CONTRIBUTED
        ),
        make(
            QUANTIZERS[1], [f"{name}@codes", scale, "ommatid.zero"], [f"{name}@rounded"], domain=CONTRIBUTED
        ),
    ]
