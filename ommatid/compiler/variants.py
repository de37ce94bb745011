"""Variants: the shapes of a model's inputs for which one program is compiled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ommatid.compiler.errors import CompileError

Shape = tuple[int, ...]


def shape_variants(shapes: Mapping[str, Any]) -> list[dict[str, Shape]]:
    """The inputs' shapes of each variant, in the order given; one variant without any shape if none is given.

    A value is a shape, or a sequence of shapes: one for each variant. A single shape serves all variants.

    Raises:
        CompileError: two inputs have different numbers of shapes, or two variants are the same.
    """
    lists = {name: _as_list(value) for name, value in shapes.items()}
    several = {name: given for name, given in lists.items() if len(given) != 1}
    if len({len(given) for given in several.values()}) > 1:
        counts = ", ".join(f"{len(given)} of {name!r}" for name, given in several.items())
        raise CompileError(
            f"--shape gives different numbers of shapes: {counts}",
            "shapes of several inputs go together in order: give as many of each, or one for all",
        )
    count = max((len(given) for given in several.values()), default=1)
    variants = [
        {name: given[i] if name in several else given[0] for name, given in lists.items()}
        for i in range(count)
    ]
    for i, variant in enumerate(variants):
        if variant in variants[:i]:
            raise CompileError(f"--shape gives {shapes_text(variant)} twice", "give each variant once")
    return variants


def _as_list(value: Any) -> list[Shape]:
    items = list(value)
    if items and not hasattr(items[0], "__index__"):
        return [tuple(shape) for shape in items]
    return [tuple(items)]


def largest(variants: list[dict[str, Shape]]) -> dict[str, Shape]:
    """The variant with the most elements in its inputs, the first of equals."""
    return max(variants, key=lambda variant: sum(math.prod(shape) for shape in variant.values()))


def shapes_text(variant: Mapping[str, Shape]) -> str:
    """Shapes as ``--shape`` takes them."""
    return " ".join(f"{name}={','.join(map(str, shape))}" for name, shape in variant.items())
