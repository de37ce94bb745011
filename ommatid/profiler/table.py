"""A profile's one table: every view (text, CSV, JSON, trace, HTML) shows columns declared here."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table

from ommatid.profiler.causes import CAUSES
from ommatid.profiler.cores import sentences
from ommatid.profiler.profile import LayerProfile, Profile

_NO_MACS = "it has no MACs"
_NO_CYCLES = "no cycle is its own"


@dataclass(frozen=True)
class Column:
    """``value`` gives a row's figure, None where there is none: ``missing`` then says why. ``kind`` is text, names,
    count, bytes, share or number; ``short`` is the title in a terminal, empty: not shown there."""

    key: str
    title: str
    kind: str
    value: Callable[[LayerProfile, Profile], Any]
    missing: Callable[[LayerProfile], str] = lambda row: ""
    short: str = ""


def _why(row: LayerProfile) -> str:
    return _NO_CYCLES if row.macs else _NO_MACS


COLUMNS: tuple[Column, ...] = (
    Column("name", "Layer", "text", lambda r, p: r.name, short="layer"),
    Column("op", "Operator", "text", lambda r, p: r.op, short="op"),
    Column("nodes", "ONNX nodes", "names", lambda r, p: list(r.nodes), short="ONNX nodes"),
    Column("cycles", "Cycles", "count", lambda r, p: r.cycles, short="cycles"),
    Column("share", "Share", "share", lambda r, p: r.cycles / max(p.cycles, 1), short="share"),
    Column("macs", "MACs", "count", lambda r, p: r.macs, short="M MACs"),
    Column("utilization", "MACs over peak", "share", lambda r, p: r.utilization, _why),
    Column("dram_bytes", "DRAM", "bytes", lambda r, p: r.dram_bytes, short="DRAM KiB"),
    Column("spilled_bytes", "of these for want of SRAM", "bytes", lambda r, p: r.spilled_bytes),
    Column("sram_peak_bytes", "SRAM peak", "bytes", lambda r, p: r.sram_peak_bytes, short="SRAM KiB"),
    Column("energy_uj", "Energy, uJ", "number", lambda r, p: r.energy_uj),
    Column("instructions", "Instructions", "count", lambda r, p: r.instructions),
    Column("efficiency", "Roofline over cycles", "share", lambda r, p: r.efficiency, _why, short="roofline"),
    Column("bound", "Bound", "text", lambda r, p: r.bound, short="bound"),
    *(
        Column(f"stall_{cause}_cycles", f"Stalls: {cause}", "count", lambda r, p, i=i: r.stall_cycles[i])  # type: ignore[misc]
        for i, cause in enumerate(CAUSES)
    ),
)


def table(result: Profile) -> list[dict[str, Any]]:
    """Every row, ``idle`` last: the columns by key, and ``unavailable``: why a figure is None, by key."""
    rows = []
    for row in result.rows:
        values = {column.key: column.value(row, result) for column in COLUMNS}
        missing = {c.key: c.missing(row) for c in COLUMNS if values[c.key] is None}
        rows.append(values | {"unavailable": missing})
    return rows


def to_csv(result: Profile) -> str:
    """The table as CSV, node names separated by blanks; its cycles sum to the total."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*(column.key for column in COLUMNS), "unavailable"])
    for row in table(result):
        missing = "; ".join(f"{key}: {why}" for key, why in row["unavailable"].items())
        writer.writerow([*(_csv_cell(row[c.key], c.kind) for c in COLUMNS), missing])
    return buffer.getvalue()


def _csv_cell(value: Any, kind: str) -> Any:
    if value is None:
        return ""
    return " ".join(value) if kind == "names" else value


# --- for people -------------------------------------------------------------------------------------------


def show(result: Profile, console: Console, most: int | None = None) -> None:
    """Print a profile: totals, engines, and its layers (the ``most`` costliest, or all in order)."""
    console.print(summary(result))
    console.print(layer_table(result, most))


def summary(result: Profile) -> RenderableType:
    """Cycles, time and the engines' use."""
    shown = Table(header_style="bold")
    shown.add_column("engine")
    for name in ("busy", "token", "bandwidth", "latency", "bank", "fetch", "idle"):
        shown.add_column(name, justify="right")
    total = max(result.cycles, 1)
    for e in result.engines:
        if e.engine != "ctl":
            token = sum(cycles for cause, cycles in e.stall_cycles.items() if cause.startswith("token"))
            causes = [e.stall_cycles[cause] for cause in ("bandwidth", "latency", "bank", "fetch")]
            shares = [e.busy_cycles, token, *causes, e.idle_cycles]
            name = e.engine if result.program.target.cores == 1 else f"{e.engine} {e.core}"
            shown.add_row(name, *(f"{100 * s / total:.1f}%" for s in shares))
    line = f"{result.cycles:,} cycles, {result.latency_ms:.3f} ms, {result.fps:.1f} frames/s, bound by {result.bound}"
    levels = sorted(result.energy_uj.items(), key=lambda item: -item[1])
    energy = f"{sum(result.energy_uj.values()):,.0f} uJ: " + ", ".join(f"{n} {v:,.0f}" for n, v in levels)
    return Group(line, shown, *sentences(result), energy)


def layer_table(result: Profile, most: int | None = None) -> Table:
    """One row a layer, with its ONNX nodes, and one for idle cycles."""
    rows = table(result)
    if most is not None:
        rows = sorted(rows, key=lambda row: -row["cycles"])[:most]
    columns = sorted(
        (c for c in COLUMNS if c.short), key=lambda c: c.kind == "names"
    )  # what may be cut, last
    lines = [[_text_cell(column, row[column.key]) for column in columns] for row in rows]
    shown = Table(show_header=True, header_style="bold")
    for i, column in enumerate(columns):
        if column.kind in ("names", "text"):
            shown.add_column(column.short, no_wrap=True, max_width=36 if column.kind == "names" else 30)
        else:  # a figure is never cut
            wide = max(len(column.short), *(len(line[i]) for line in lines))
            shown.add_column(column.short, justify="right", no_wrap=True, min_width=wide)
    for line in lines:
        shown.add_row(*line)
    return shown


def _text_cell(column: Column, value: Any) -> str:
    if value in (None, 0):
        return ""
    match column.kind:
        case "names":
            return ", ".join(value)
        case "share":
            return f"{100 * value:.1f}%"
        case "bytes":
            return f"{value / 1024:,.0f}"
        case "number":
            return f"{value:,.1f}"
        case "count":
            return f"{value / 1e6:,.1f}" if column.short.startswith("M ") else f"{value:,}"
    return str(value)
