"""Placement problems of the MiniMalloc benchmark's kind, made so that a placement of a known height exists; its files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from ommatid.compiler.placement_sections import Box

Rectangle = tuple[int, int, int, int]  # first moment, lowest address, moments, bytes
HEIGHT = 1024


def guillotine(random: np.random.Generator, count: int) -> list[Rectangle]:
    """A rectangle cut in two by straight cuts, again and again."""
    parts: list[Rectangle] = [(0, 0, count, HEIGHT)]
    while len(parts) < count:
        k = _by_area(random, parts)
        x, y, w, h = parts[k]
        if w > 1 and (h == 1 or random.random() < 0.5):
            at = int(random.integers(1, w))
            parts[k : k + 1] = [(x, y, at, h), (x + at, y, w - at, h)]
        elif h > 1:
            at = int(random.integers(1, h))
            parts[k : k + 1] = [(x, y, w, at), (x, y + at, w, h - at)]
    return parts


def pinwheels(random: np.random.Generator, count: int) -> list[Rectangle]:
    """A rectangle cut into four around a fifth, again and again: no straight cut goes through."""
    parts: list[Rectangle] = [(0, 0, count, HEIGHT)]
    while len(parts) < count and any(w > 2 and h > 2 for _, _, w, h in parts):
        k = _by_area(random, parts)
        x, y, w, h = parts[k]
        if w < 3 or h < 3:
            continue
        x1, x2 = (int(at) for at in np.sort(random.choice(np.arange(1, w), 2, replace=False)))
        y1, y2 = (int(at) for at in np.sort(random.choice(np.arange(1, h), 2, replace=False)))
        parts[k : k + 1] = [
            (x, y, x2, y1), (x + x2, y, w - x2, y2), (x + x1, y + y2, w - x1, h - y2), (x, y + y1, x1, h - y1),
            (x + x1, y + y1, x2 - x1, y2 - y1),
        ]  # fmt: skip
    return parts


def holes(random: np.random.Generator, count: int) -> list[Rectangle]:
    """Straight cuts, and every tenth part left out."""
    return [part for part in guillotine(random, count) if random.random() < 0.9]


def network(random: np.random.Generator, count: int) -> list[Rectangle]:
    """Not cut: a layer's output at each moment, most of them read soon, some much later; sizes of all magnitudes."""
    lives = np.where(
        random.random(count) < 0.8, 1 + random.geometric(0.4, count), random.integers(1, count + 1, count)
    )
    sizes = np.exp(random.uniform(0, 6, count)).astype(int) + 1
    return [(i, 0, min(int(lives[i]), count - i), int(sizes[i])) for i in range(count)]


FAMILIES: dict[str, Callable[[np.random.Generator, int], list[Rectangle]]] = {
    "straight cuts": guillotine, "pinwheels": pinwheels, "cuts with holes": holes, "networks": network,
}  # fmt: skip


def problem(family: str, count: int, seed: int) -> list[Box]:
    """Boxes of a family, in random order. If the bound of one that is cut is HEIGHT, it can be reached."""
    random = np.random.default_rng(seed)
    parts = FAMILIES[family](random, count)
    order = random.permutation(len(parts))
    return [Box(f"b{i}", *_box(parts[k])) for i, k in enumerate(order)]


def read_csv(path: Path) -> list[Box]:
    """The boxes of a file of the benchmark's format: columns id, lower, upper (when it is dead), size."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [Box(row["id"], int(row["lower"]), int(row["upper"]) - 1, int(row["size"])) for row in rows]


def write_csv(path: Path, boxes: Sequence[Box], offsets: Iterable[int]) -> None:
    """Write boxes and where they are placed, as the benchmark's solvers do."""
    rows = [(box.name, box.first, box.last + 1, box.size, at) for box, at in zip(boxes, offsets, strict=True)]
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("id", "lower", "upper", "size", "offset"), *rows])


def _box(part: Rectangle) -> tuple[int, int, int]:
    x, _, w, h = part
    return x, x + w - 1, h


def _by_area(random: np.random.Generator, parts: list[Rectangle]) -> int:
    areas = np.array([w * h for _, _, w, h in parts], float)
    return int(random.choice(len(parts), p=areas / areas.sum()))
