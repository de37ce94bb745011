"""The search for how to quantise a network: one change after the other, kept if the network's outputs come nearer.

Ranges are chosen by the error that they leave at the tensor. Where no output is then further than a step of its codes
from what it should be, that is all; else channels are equalised between those convolutions of which the second then
has a smaller error, and biases are corrected in all convolutions. Either is kept only if it lowers the error of the
network's outputs, measured in onnxruntime.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from ommatid.compiler.correct import correct_bias, helps, shift, window
from ommatid.compiler.equalize import Array, Pair, equalize, gains, is_fixed, pairs
from ommatid.compiler.errors import CompileError
from ommatid.compiler.form import Form
from ommatid.compiler.observe import Feeds, Observed, Run, count, runner
from ommatid.compiler.qdq import share_ranges, sixteen, to_qdq
from ommatid.compiler.ranges import METHODS, Choice, choose
from ommatid.compiler.readers import limits, rectified, views
from ommatid.compiler.recipe import EQUALIZED, Recipe, TensorRecipe

#: So many samples judge whether equalisation and bias correction help.
JUDGES = 4
#: Where no output is further than so many steps of its codes from what it should be, nothing is left to gain.
NEAR = 1.02


@dataclass(frozen=True, eq=False)
class Candidate:
    """A float model with the weights and biases to quantise, its tensors as observed, and their ranges.

    ``gains`` are those of equalised pairs by the name of their second convolution, ``shifts`` those taken back in
    biases by the name of the convolution (float64 by channel).
    """

    model: ir.Model
    observed: Mapping[str, Observed]
    choices: Mapping[str, Choice]
    gains: Mapping[str, Array] = field(default_factory=dict)
    shifts: Mapping[str, Array] = field(default_factory=dict)


#: What of a candidate may be changed, and whether the recipe asks for it; and the candidate with that changed.
Wanted = Callable[[Candidate], tuple[list[Any], bool]]
Change = Callable[[Candidate, list[Any], bool], Candidate | None]


class Verdict(NamedTuple):
    """Of a candidate's outputs: noise over signal, the mean of outputs and samples; the largest error, in steps of the
    codes of its output."""

    noise: float
    steps: float


def adjusted(model: ir.Model, gains: Mapping[str, Array], shifts: Mapping[str, Array]) -> ir.Model:
    """A copy with equalised channels and corrected biases."""
    copy = model.clone()
    for pair in pairs(copy):
        if (gain := gains.get(pair.second.name or "")) is not None:
            equalize(copy, pair, gain)
    for node in copy.graph:
        if (by_channel := shifts.get(node.name or "")) is not None:
            correct_bias(copy, node, by_channel)
    return copy


@dataclass
class Search:
    """What a search goes by: a canonical float model, its tensors (``run``), samples (``feeds`` begins anew), recipe and
    method.

    Raises:
        CompileError: no such method.
    """

    model: ir.Model
    run: Run
    feeds: Callable[[], Iterable[Feeds]]
    recipe: Recipe
    method: str
    percent: float
    proposed: dict[str, Choice] = field(default_factory=dict)
    forms: dict[Candidate, Form] = field(default_factory=dict)  # QDQ models, of what was judged
    _kept: list[dict[str, Array]] = field(default_factory=list)  # by name, on the samples that judge

    def __post_init__(self) -> None:
        if self.method not in ("auto", *METHODS):
            raise CompileError(
                f"unknown calibration method {self.method!r}", f"use one of auto, {', '.join(METHODS)}"
            )

    @functools.cached_property
    def _names_kept(self) -> set[str]:
        """What is looked at twice: outputs, and what lies between pairs that may be equalised, but for what a Relu alone
        reads."""
        between = {value.name or "" for pair in self._pairs()[0] for value in pair.between}
        return {*self._outputs(), *(between - self.rectified(self.model).keys())}

    def look(self, tensors: Mapping[str, Array]) -> None:
        """Of the samples that judge, keep what is looked at twice."""
        if len(self._kept) < JUDGES:
            self._kept.append({name: tensors[name] for name in self._names_kept})

    def _looked_at(self) -> list[dict[str, Array]]:
        """What was kept of the samples that judge; if observations came from disk, they are run now."""
        for feeds in () if self._kept else islice(self.feeds(), JUDGES):
            self.look(self.run(feeds, self._names_kept))
        return self._kept

    def plain(self, observed: Mapping[str, Observed]) -> Candidate:
        """Ranges alone."""
        return Candidate(self.model, observed, self._ranges(self.model, observed))

    def best(self, observed: Mapping[str, Observed]) -> Candidate:
        """The best that is found."""
        best, verdict = self.plain(observed), None
        changes: list[tuple[Wanted, Change]] = [
            (lambda best: self._pairs(), self._equalized),
            (self._convolutions, self._corrected),
        ]
        for which, change in changes:
            wanted, asked = which(best)
            if not wanted:
                continue
            if not asked:
                verdict = verdict or self._judged(best)
                if verdict.steps <= NEAR:
                    continue
            if (trial := change(best, wanted, asked)) is None:
                continue
            found = None if asked else self._judged(trial)
            if found is None or verdict is None or found.noise < verdict.noise:
                best, verdict = trial, found
        return best

    def rectified(self, model: ir.Model) -> dict[str, str]:
        """Tensors whose range is that of what a Relu makes of them, and that: the recipe says nothing of them."""
        return {a: b for a, b in rectified(model).items() if a not in self.recipe.tensors}

    def _ranges(self, model: ir.Model, observed: Mapping[str, Observed]) -> dict[str, Choice]:
        """A range for every tensor observed: the recipe's, or by the method; alike where tensors share one."""
        values = ir.convenience.create_value_mapping(model.graph)
        wide = sixteen(model, self.recipe)
        same = self.rectified(model)
        for name in observed.keys() - self.proposed.keys() - same.keys():
            entry = self.recipe.tensors.get(name, TensorRecipe())
            by = self.method if entry.method == "auto" else entry.method
            d = observed[name].histogram.distribution(*limits(values[name]))
            # 16 bits hold all of a range: there is nothing to cut off
            methods = (by,) if by != "auto" else ("minmax",) if name in wide else METHODS
            self.proposed[name] = choose(d, views(values[name]), methods, self.percent)
        choices = {name: self.proposed[same.get(name, name)] for name in observed}
        share_ranges(model, choices)
        for name, entry in self.recipe.tensors.items():
            if entry.low is not None and entry.high is not None and name in choices:
                choices[name] = replace(choices[name], low=entry.low, high=entry.high, method=entry.method)
        return choices

    def _equalized(self, best: Candidate, wanted: Sequence[Pair], asked: bool) -> Candidate | None:
        """With those equalised pairs of convolutions that help, or all if they are asked for; None: none is."""
        tried = [(pair, gains(pair, best.observed[pair.read])) for pair in wanted]
        tried = [(pair, gain) for pair, gain in tried if (gain < 1).any()]
        windows, seen = self._look_again(tried, best.observed) if tried else ([], {})
        helpful = [
            (pair, gain)
            for (pair, gain), x in zip(tried, windows, strict=True)
            if asked or helps(pair, gain, best.observed[pair.read], x)
        ]
        if not helpful:
            return None
        found = {pair.second.name or "": gain for pair, gain in helpful}
        gone = [value.name or "" for pair, _ in helpful for value in pair.between]
        observed = {name: o for name, o in best.observed.items() if name not in gone}
        observed |= {(new := f"{name}{EQUALIZED}"): seen[new] for name in gone}
        model = adjusted(self.model, found, {})
        return Candidate(model, observed, self._ranges(model, observed), found)

    def _look_again(
        self, tried: list[tuple[Pair, Array]], observed: Mapping[str, Observed]
    ) -> tuple[list[Array], dict[str, Observed]]:
        """On the samples that judge, of pairs with gains: windows of what the second reads, and the tensors between as
        they are with gains, by their new names; their limits are those of all samples."""
        by_name = {v.name or "": gain.astype(np.float32) for pair, gain in tried for v in pair.between}
        kept = self._looked_at()
        counted = count(
            {
                name: tensors[name] / gain.reshape(1, -1, *[1] * (tensors[name].ndim - 2))
                for name, gain in by_name.items()
                if name in tensors
            }
            for tensors in kept
        )
        seen = {
            f"{name}{EQUALIZED}": observed[name].divided(gain, counted.get(name, Observed()).histogram)
            for name, gain in by_name.items()
        }
        windows = [
            np.concatenate([window(tensors[pair.read], pair.second) for tensors in kept]) for pair, _ in tried
        ]
        self._kept = [
            {name: tensors[name] for name in self._outputs()} for tensors in kept
        ]  # the rest is large
        return windows, seen

    def _pairs(self) -> tuple[list[Pair], bool]:
        return self._wanted(pairs(self.model), lambda pair: self.recipe.layer(pair.second.name).equalize)

    def _convolutions(self, best: Candidate) -> tuple[list[ir.Node], bool]:
        convs = [node for node in best.model.graph if is_fixed(node) and _read(node) in best.observed]
        return self._wanted(convs, lambda node: self.recipe.layer(node.name).correct_bias)

    def _corrected(self, best: Candidate, wanted: Sequence[ir.Node], asked: bool) -> Candidate:
        """With corrected biases."""
        shifts = {node.name or "": shift(node, best.observed[_read(node)]) for node in wanted}
        return replace(best, model=adjusted(self.model, best.gains, shifts), shifts=shifts)

    def _wanted(self, found: list[Any], says: Callable[[Any], bool | None]) -> tuple[list[Any], bool]:
        """Those that the recipe asks for, and True; if it asks for none, those that it leaves open, unless a method
        was named, and False."""
        asked = [each for each in found if says(each)]
        return asked or [each for each in found if says(each) is None and self.method == "auto"], bool(asked)

    def _outputs(self) -> list[str]:
        return [o.name or "" for o in self.model.graph.outputs if o.producer() is not None]

    def _judged(self, candidate: Candidate) -> Verdict:
        """How far a candidate's outputs are from the float model's, on the samples that judge."""
        names = self._outputs()
        self.forms[candidate] = form = to_qdq(candidate.model, candidate.choices, self.recipe)
        run, steps = runner(form, names, optimize=True), {name: _step(form, name) for name in names}
        noise, most = [], 0.0
        for a, feeds in zip(self._looked_at(), self.feeds(), strict=False):
            b = run(feeds)
            for name in names:
                x = np.asarray(a[name], np.float64)
                error = np.abs(x - b[name])
                noise.append((error**2).sum() / max((x**2).sum(), 1e-30))
                most = np.maximum(most, error.max(initial=0) / steps[name])
        return Verdict(float(np.mean(noise)) if noise else 0.0, float(most))


def _step(form: Form, name: str) -> float:
    """The scale of an output's codes; next to nothing if it has none."""
    maker = next(node for node in form.proto.graph.node if name in node.output)
    if maker.op_type != "DequantizeLinear":
        return 1e-30
    return float(form.numbers()(maker.input[1]))


def _read(conv: ir.Node) -> str:
    """The name of the tensor that a convolution reads."""
    return (conv.inputs[0].name or "") if conv.inputs[0] is not None else ""
