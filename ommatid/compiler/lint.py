"""Lint of a quantisation: what will lose accuracy, found before anything is compiled.

Each rule looks at the float model, at what was observed of its tensors and at the ranges chosen for them, and says
the node, the figures and the remedy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ommatid.compiler.equalize import is_fixed, rounded_weights, weights_of
from ommatid.compiler.observe import Observed
from ommatid.compiler.ranges import STEPS, Choice
from ommatid.compiler.readers import limits, views

Array = np.ndarray[Any, Any]

#: A branch dies where it reaches no more than this many steps of the shared scale.
DYING_STEPS = 3
#: Of a tensor's values, at most this share is clamped, by more than this share of the range, as a reader sees both.
CLAMPED_SHARE, CLAMPED_BY = 0.02, 0.05
#: Values of a channel from which on it may be called dead: a squeeze has one in a sample.
ENOUGH = 256
#: Of a channel's int8 weights but the largest, where those have at least this share of its power.
WEIGHT_SQNR_DB, REST = 20.0, 0.02


@dataclass(frozen=True)
class Finding:
    """What is wrong with a node: the rule's name, the figures by name (with their units), the remedy."""

    rule: str
    node: str
    figures: dict[str, float]
    remedy: str

    def to_dict(self) -> dict[str, Any]:
        """The keys of ``check --json`` and ``compile --json``."""
        return asdict(self)


@dataclass(frozen=True)
class Subject:
    """What the rules look at. ``observed`` and ``choices`` are empty where there were no data."""

    model: ir.Model
    observed: Mapping[str, Observed]
    choices: Mapping[str, Choice]


def lint(model: ir.Model, observed: Mapping[str, Observed], choices: Mapping[str, Choice]) -> list[Finding]:
    """All findings, rule by rule, in the order of the graph."""
    subject = Subject(model, observed, choices)
    return [finding for rule in RULES for finding in rule(subject)]


def _dying_branch(s: Subject) -> Iterator[Finding]:
    """An input of Concat or Add that is lost in the scale it shares with another."""
    for node in s.model.graph:
        output = s.choices.get(node.outputs[0].name or "")
        if node.op_type not in ("Concat", "Add") or output is None:
            continue
        for value in node.inputs:
            seen = s.observed.get(value.name or "") if value is not None else None
            if seen is not None and dies(seen, output):
                yield Finding(
                    "dying-branch", node.name or "",
                    {"branch_low": seen.histogram.low, "branch_high": seen.histogram.high, "shared_low": output.low,
                     "shared_high": output.high, "shared_step": step_of(output)},
                    f"{value.name!r} needs a scale of its own: make it an output of its own "  # type: ignore[union-attr]
                    f"(--outputs), or bring its range near the others' before {node.op_type}",
                )  # fmt: skip


def dies(branch: Observed, shared: Choice) -> bool:
    """Whether a branch that varies has hardly a code left in the shared scale."""
    reach = max(abs(branch.histogram.low), abs(branch.histogram.high))
    return branch.histogram.low < branch.histogram.high and reach <= DYING_STEPS * step_of(shared)


def step_of(choice: Choice) -> float:
    """The scale of a range of 8 bits."""
    return (max(choice.high, 0.0) - min(choice.low, 0.0)) / STEPS


def _saturating(s: Subject) -> Iterator[Finding]:
    """A tensor whose range leaves out many of its values."""
    for node in s.model.graph:
        for value in node.outputs:
            seen, choice = s.observed.get(value.name or ""), s.choices.get(value.name or "")
            if seen is None or choice is None:
                continue
            if not seen.histogram.counts.any():  # found at the Relu that alone reads it
                continue
            d = seen.histogram.distribution(*limits(value))
            inside = np.clip(d.values, min(choice.low, 0), max(choice.high, 0))
            lost = np.zeros(d.values.size, bool)
            for view in views(value):
                wanted, clamped = view(d.values), view(inside)
                lost |= np.abs(wanted - clamped) > CLAMPED_BY * np.ptp(clamped)
            if (share := float(d.shares[lost].sum())) > CLAMPED_SHARE:
                yield Finding(
                    "saturating", node.name or "",
                    {"clamped_share": share, "low": seen.histogram.low, "high": seen.histogram.high,
                     "range_low": choice.low, "range_high": choice.high},
                    f"widen the range of {value.name!r} in the recipe, or calibrate with data like those in use",
                )  # fmt: skip


def _dead_channels(s: Subject) -> Iterator[Finding]:
    """A convolution's channels that are the same number whatever the input: not only for the few that were seen."""
    for node in s.model.graph:
        if not is_fixed(node):
            continue
        weights = weights_of(node)
        dead = np.logical_not(weights.reshape(len(weights), -1).any(axis=1))
        seen = s.observed.get(node.outputs[0].name or "")
        if seen is not None and len(seen.channel_low) == len(dead) and seen.count >= ENOUGH:
            dead |= _shut(seen, _clamped(node.outputs[0], s.observed))
        if dead.any():
            yield Finding(
                "dead-channels", node.name or "",
                {"channels": float(dead.sum()), "of": float(len(dead)), "first": float(np.flatnonzero(dead)[0])},
                "remove the channels and what reads them, or look at the training: they cost cycles and carry nothing",
            )  # fmt: skip


def _shut(before: Observed, after: Observed) -> Array:
    """Channels of one value behind a Relu or Clip, whose values before lie further from it than from each other."""
    low, high, value = before.channel_low, before.channel_high, after.channel_low
    distance = np.maximum(value - high, low - value)
    return (value == after.channel_high) & ((low == high) | (distance > high - low))


def _clamped(value: ir.Value, observed: Mapping[str, Observed]) -> Observed:
    """What is known of a tensor after the Relu or Clip that alone reads it."""
    uses = tuple(value.uses())
    if len(uses) == 1 and uses[0].node.op_type in ("Relu", "Clip"):
        return observed.get(uses[0].node.outputs[0].name or "", observed[value.name or ""])
    return observed[value.name or ""]


def _outlier_weights(s: Subject) -> Iterator[Finding]:
    """A convolution's channel with one weight so large that the others lose their bits."""
    for node in s.model.graph:
        if not is_fixed(node):
            continue
        weights = weights_of(node)
        flat = weights.reshape(len(weights), -1)
        most = np.maximum(flat.max(axis=1), -flat.min(axis=1)).astype(np.float64)
        signal = _power(flat)
        # without its largest weight: an outlier alone carries much power, and the rest is what is lost
        rest = signal - most**2
        matters, allowed = rest > REST * signal, rest * 10 ** (-WEIGHT_SQNR_DB / 10)
        noise = flat.shape[1] * (most / 127 * 0.501) ** 2  # at most: half a step
        suspect = np.flatnonzero(matters & (noise > allowed))
        noise[suspect] = _power(rounded_weights(flat[suspect]) - flat[suspect])
        bad = matters & (noise > allowed)
        if bad.any():
            worst = int(np.argmax(np.where(bad, noise / np.where(rest > 0, rest, 1), 0)))
            ratio = np.abs(flat[worst]).max() / np.sqrt(signal[worst] / flat.shape[1])
            yield Finding(
                "outlier-weights", node.name or "",
                {"channels": float(bad.sum()), "of": float(len(bad)), "worst_channel": float(worst),
                 "largest_over_rms": float(ratio)},
                "clamp the weight and train on, or train with weight decay",
            )  # fmt: skip


def _power(rows: Array) -> Array:
    """The sum of squares of each row (float64)."""
    return np.einsum("ij,ij->i", rows, rows, dtype=np.float64)


Rule = Callable[[Subject], Iterator[Finding]]

#: In the order of their harm.
RULES: tuple[Rule, ...] = (_dying_branch, _saturating, _dead_channels, _outlier_weights)
