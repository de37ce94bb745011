"""Which variant of a program runs feeds of some shapes, and what of its outputs is theirs.

Feeds whose shapes no variant has are padded behind with zeros (real zeros: an integer input gets its zero point), and
the outputs are cropped. Which dimensions to crop is told by the variants: an output's dimension that is the same in all
of them stays whole, and one that grows in proportion to an input's is cropped in proportion, rounded up. Where that does
not tell, nothing is padded. The first dimension is the batch: feeds with more of it run in several passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from ommatid.isa.program import Port, Program

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]  # of feeds, by input


class RunError(ValueError):
    """Feeds that do not fit the network's inputs; ``hint`` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Plan:
    """How feeds run: by which variant, in how many passes, and the shapes of the outputs that are theirs."""

    variant: int
    passes: int
    outputs: dict[str, Shape]


def shapes_of(ports: Sequence[Port]) -> dict[str, Shape]:
    """The shapes of inputs or outputs, by name."""
    return {port.name: port.shape for port in ports}


def plan(variants: Sequence[Program], feeds: Shapes, pad: bool) -> Plan | None:
    """The plan with the least work, one without padding before all others; None where no variant fits.

    Raises:
        RunError: a variant fits with padding, and what to crop is unknown; or the batch does not fit the outputs.
    """
    fitting = [n for n, variant in enumerate(variants) if _passes(shapes_of(variant.inputs), feeds)]
    exact = [n for n in fitting if not _padded(variants[n], feeds)]
    problem: RunError | None = None
    for number in sorted(exact or (fitting if pad else []), key=lambda n: _work(variants[n], feeds)):
        try:
            return _plan(variants, number, feeds)
        except RunError as error:
            problem = problem or error
    if problem is not None:
        raise problem
    return None


def _passes(inputs: Shapes, feeds: Shapes) -> int:
    """Passes of a variant that these feeds take; 0 where they do not fit it."""
    if inputs == feeds:
        return 1
    counts = set()
    for name, shape in inputs.items():
        given = feeds[name]
        if (
            len(given) != len(shape)
            or 0 in given
            or any(a > b for a, b in zip(given[1:], shape[1:], strict=True))
        ):
            return 0
        counts.add(-(-given[0] // shape[0]) if shape else 1)
    return counts.pop() if len(counts) == 1 else 0


def _padded(variant: Program, feeds: Shapes) -> list[tuple[str, int]]:
    """Dimensions of inputs, the batch apart, in which feeds are smaller than a variant."""
    return [
        (port.name, axis)
        for port in variant.inputs
        for axis in range(1, len(port.shape))
        if feeds[port.name][axis] < port.shape[axis]
    ]


def _work(variant: Program, feeds: Shapes) -> tuple[int, int]:
    inputs = shapes_of(variant.inputs)
    passes = _passes(inputs, feeds)
    return passes * sum(math.prod(shape) for shape in inputs.values()), passes


def _plan(variants: Sequence[Program], number: int, feeds: Shapes) -> Plan:
    chosen = variants[number]
    passes = _passes(shapes_of(chosen.inputs), feeds)
    sizes = {
        (port.name, axis): [shapes_of(v.inputs)[port.name][axis] for v in variants]
        for port in chosen.inputs
        for axis in range(len(port.shape))
    }
    padded = _padded(chosen, feeds)
    for name, axis in padded:
        if len(set(sizes[name, axis])) == 1:
            raise RunError(
                f"input {name!r} would need padding in dimension {axis}, in which no two variants differ",
                "compile another variant (--shape) that differs in it, or this very shape",
            )
    outputs = {}
    for k, port in enumerate(chosen.outputs):
        extents = []
        for axis, size in enumerate(port.shape):
            held = [v.outputs[k].shape[axis] for v in variants]
            if padded and len(set(held)) > 1 and not (axis == 0 and _follows_batch(held, sizes)):
                _check_order(port.name, axis, variants[0].info.get("rearranged_by", ()))
                extents.append(_cropped(port.name, axis, held, number, sizes, feeds))
            else:
                extents.append(size)
        outputs[port.name] = _batch(port, chosen, feeds, tuple(extents))
    return Plan(number, passes, outputs)


Sizes = Mapping[tuple[str, int], Sequence[int]]  # of an input's dimension in each variant


def _follows_batch(held: Sequence[int], sizes: Sizes) -> bool:
    return any(axis == 0 and _proportional(held, own) for (_, axis), own in sizes.items())


def _proportional(held: Sequence[int], own: Sequence[int]) -> bool:
    return all(a * own[0] == b * held[0] for a, b in zip(held, own, strict=True))


def _check_order(name: str, axis: int, nodes: Sequence[str]) -> None:
    if nodes:
        raise RunError(
            f"dimension {axis} of output {name!r} may hold padding anywhere: node {nodes[0]!r} rearranges positions",
            "compile this very shape (--shape)",
        )


def _cropped(name: str, axis: int, held: Sequence[int], number: int, sizes: Sizes, feeds: Shapes) -> int:
    """The size of an output's dimension that is due to the feeds, from its sizes in all variants."""
    found = {
        source: -(-held[number] * feeds[source[0]][source[1]] // own[number])
        for source, own in sizes.items()
        if source[1] and _proportional(held, own)
    }
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    several = " or ".join(f"dimension {d} of input {n!r}" for n, d in found)
    raise RunError(
        f"dimension {axis} of output {name!r} follows {several or 'no dimension of an input in proportion'}: "
        "what to crop of it is unknown",
        "compile another variant (--shape) that tells them apart, or this very shape"
        if found else "compile this very shape (--shape)",
    )  # fmt: skip


def _batch(port: Port, chosen: Program, feeds: Shapes, extents: Shape) -> Shape:
    """The shape of an output over all passes."""
    batches = {(feeds[p.name][0], p.shape[0]) for p in chosen.inputs if p.shape}
    if all(given == own for given, own in batches):
        return extents
    factors = {Fraction(given, own) for given, own in batches}
    whole = bool(extents) and extents[0] == port.shape[0] and all(extents[0] % own == 0 for _, own in batches)
    if len(factors) > 1 or not whole:
        given, own = max(batches)
        raise RunError(
            f"output {port.name!r} of shape {list(port.shape)} has no batch; feeds have one of {given}, not {own}",
            "feed the batch that the program has",
        )
    return (int(extents[0] * factors.pop()), *extents[1:])


# --- arrays ------------------------------------------------------------------------------------------------


def padded(array: Array, shape: Shape, passes: int, zero: int) -> Array:
    """A feed with ``zero`` behind, up to ``passes`` batches of a variant's input."""
    full = (passes * shape[0], *shape[1:]) if shape else ()
    if not isinstance(array, np.ndarray) or array.shape == full:  # a sequence has no shape
        return array
    whole = np.full(full, zero, array.dtype)
    whole[tuple(slice(size) for size in array.shape)] = array
    return whole


def part(array: Array, index: int, passes: int) -> Array:
    """What one pass sees of a padded feed."""
    size = len(array) // passes if passes > 1 else 0
    return array[index * size : (index + 1) * size] if passes > 1 else array


def joined(parts: Sequence[Array], shape: Shape) -> Array:
    """The passes' outputs as one, cropped to a shape."""
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if not isinstance(whole, np.ndarray) or whole.shape == shape:
        return whole
    return np.ascontiguousarray(whole[tuple(slice(size) for size in shape)])
