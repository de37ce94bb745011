"""What changed between two programs or profiles: in total, and by layer, matched by ONNX nodes through fusion."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from ommatid.isa.program_file import load
from ommatid.profiler.profile import profile

Row = Mapping[str, Any]  # a row of ``table.table``, or of its JSON

#: What is compared, and how rows make a total.
FIGURES: dict[str, Callable[[list[Any]], Any]] = {
    "cycles": sum,
    "instructions": sum,
    "dram_bytes": sum,
    "sram_peak_bytes": max,
    "energy_uj": sum,
}
_EXACT = ("cycles", "instructions", "dram_bytes", "sram_peak_bytes")


class DiffError(ValueError):
    """Something that cannot be compared; ``hint`` says what can."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Change:
    """Rows of one side that do the work of rows of the other; ``figures``: before and after, by FIGURES."""

    nodes: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    figures: dict[str, tuple[float, float]]

    @property
    def changed(self) -> bool:
        """Whether anything differs."""
        return self.before != self.after or any(differ(key, *pair) for key, pair in self.figures.items())

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``diff`` prints it."""
        sides = {"before": list(self.before), "after": list(self.after)}
        return {"nodes": list(self.nodes), **sides} | {key: list(pair) for key, pair in self.figures.items()}


def differ(key: str, before: float, after: float) -> bool:
    """Whether a figure changed; energies are sums of floats."""
    return before != after if key in _EXACT else abs(after - before) > 1e-9 * max(abs(before), abs(after))


@dataclass(frozen=True)
class Diff:
    """The total, and what changed of the layers, the largest change of cycles first."""

    total: dict[str, tuple[float, float]]
    layers: tuple[Change, ...]

    @property
    def changed(self) -> bool:
        """Whether anything differs."""
        return bool(self.layers)

    def to_dict(self) -> dict[str, Any]:
        """The keys of ``diff`` (design 7), names left out."""
        total = {key: list(pair) for key, pair in self.total.items()}
        return {"changed": self.changed, "total": total, "layers": [c.to_dict() for c in self.layers]}


def read_rows(path: str, variant: int = 0) -> list[Row]:
    """The rows of a program's profile, or of a profile as ``profile --json`` printed it.

    Raises:
        DiffError, ProgramFileError: it is neither.
    """
    data = Path(path).read_bytes() if Path(path).is_file() else b""
    if not data.lstrip().startswith(b"{"):
        variants = load(path).variants
        if variant >= len(variants):
            raise DiffError(f"{path}: has no variant {variant}", f"it holds {len(variants)}")
        return profile(variants[variant]).to_dict()["layers"]
    try:
        found = json.loads(data)
        rows = found["layers"]
        if found["schema"] != "ommatid.profile/1" or not all(FIGURES.keys() <= row.keys() for row in rows):
            raise KeyError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DiffError(
            f"{path}: is neither a program nor a profile", "write one with `ommatid profile P.omm --json`"
        ) from None
    return rows


def diff(before: Sequence[Row], after: Sequence[Row]) -> Diff:
    """What changed from one profile's rows to another's."""
    changes = [_change(a, b) for a, b in match(before, after)]
    order = sorted(
        (c for c in changes if c.changed), key=lambda c: -abs(c.figures["cycles"][1] - c.figures["cycles"][0])
    )
    return Diff(_figures(before, after), tuple(order))


def _change(before: Sequence[Row], after: Sequence[Row]) -> Change:
    nodes = dict.fromkeys(node for row in (*before, *after) for node in row["nodes"])
    left, right = (tuple(row["name"] for row in rows) for rows in (before, after))
    return Change(tuple(nodes), left, right, _figures(before, after))


def _figures(before: Sequence[Row], after: Sequence[Row]) -> dict[str, tuple[float, float]]:
    return {
        key: (_total(key, before), _total(key, after)) for key in FIGURES if all(key in row for row in before)
    }


def _total(key: str, rows: Sequence[Row]) -> float:
    return FIGURES[key]([row[key] for row in rows]) if rows else 0


def match(before: Sequence[Row], after: Sequence[Row]) -> list[tuple[list[Row], list[Row]]]:
    """Rows that share ONNX nodes, however these are fused on either side; rows without nodes go by their names."""
    leader: dict[str, str] = {}

    def find(key: str) -> str:
        while leader.setdefault(key, key) != key:
            key = leader[key]
        return key

    keys = [[f"node {n}" for n in row["nodes"]] or [f"row {row['name']}"] for row in (*before, *after)]
    for several in keys:
        for key in several[1:]:
            leader[find(key)] = find(several[0])
    groups: dict[str, tuple[list[Row], list[Row]]] = {}
    for at, (row, several) in enumerate(zip((*before, *after), keys, strict=True)):
        groups.setdefault(find(several[0]), ([], []))[at >= len(before)].append(row)
    return list(groups.values())


# --- for people -------------------------------------------------------------------------------------------

_TITLES = {"cycles": "cycles", "instructions": "instructions", "dram_bytes": "DRAM bytes",
           "sram_peak_bytes": "SRAM peak", "energy_uj": "uJ"}  # fmt: skip


def cells(result: Diff, most: int | None = None) -> tuple[list[str], list[list[str]]]:
    """The titles and rows of the table, the total first."""
    titles = ["before", "after", *(_TITLES[key] for key in result.total)]
    rows = [["total", "", *(change_text(key, *pair) for key, pair in result.total.items())]]
    for c in result.layers[:most]:
        figures = (change_text(key, *pair) for key, pair in c.figures.items())
        rows.append([", ".join(c.before) or "-", ", ".join(c.after) or "-", *figures])
    return titles, rows


def change_text(key: str, before: float, after: float) -> str:
    """A figure before and after, with the change in percent; the figure alone where it stays."""
    shown = [f"{value:,.1f}" if key == "energy_uj" else f"{value:,.0f}" for value in (before, after)]
    if not differ(key, before, after):
        return shown[1]
    percent = f" ({100 * (after - before) / before:+.1f}%)" if before else ""
    return f"{shown[0]} → {shown[1]}{percent}"


def diff_table(result: Diff) -> Table:
    """The table for a terminal."""
    titles, rows = cells(result)
    table = Table(header_style="bold")
    for i, title in enumerate(titles):
        table.add_column(title, justify="left" if i < 2 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def diff_markdown(result: Diff, most: int | None = None) -> str:
    """The table in Markdown."""
    titles, rows = cells(result, most)
    lines = [titles, ["---"] * 2 + ["--:"] * (len(titles) - 2), *rows]
    return (
        "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        + "\n"
    )
