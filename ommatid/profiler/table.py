"""A profile as a table for people."""

from __future__ import annotations

import csv
import io

from rich.console import Console, Group, RenderableType
from rich.table import Table

from ommatid.profiler.profile import LayerProfile, Profile


def show(result: Profile, console: Console, most: int | None = None) -> None:
    """Print a profile: totals, engines, and its layers (the ``most`` costliest, or all in order)."""
    console.print(summary(result))
    console.print(layer_table(result, most))


def summary(result: Profile) -> RenderableType:
    """Cycles, time and the engines' use."""
    table = Table(header_style="bold")
    table.add_column("engine")
    for name in ("busy", "token", "bandwidth", "latency", "bank", "fetch", "idle"):
        table.add_column(name, justify="right")
    total = max(result.cycles, 1)
    for e in result.engines:
        if e.engine != "ctl":
            token = sum(cycles for cause, cycles in e.stall_cycles.items() if cause.startswith("token"))
            causes = [e.stall_cycles[cause] for cause in ("bandwidth", "latency", "bank", "fetch")]
            shares = [e.busy_cycles, token, *causes, e.idle_cycles]
            table.add_row(e.engine, *(f"{100 * s / total:.1f}%" for s in shares))
    line = f"{result.cycles:,} cycles, {result.latency_ms:.3f} ms, {result.fps:.1f} frames/s, bound by {result.bound}"
    levels = sorted(result.energy_uj.items(), key=lambda item: -item[1])
    energy = f"{sum(result.energy_uj.values()):,.0f} uJ: " + ", ".join(f"{n} {v:,.0f}" for n, v in levels)
    return Group(line, table, energy)


def layer_table(result: Profile, most: int | None = None) -> Table:
    """One row a layer, with its ONNX nodes."""
    rows = list(result.layers)
    if most is not None:
        rows = sorted(rows, key=lambda row: -row.cycles)[:most]
    table = Table(show_header=True, header_style="bold")
    for name in ("layer", "op"):
        table.add_column(name, no_wrap=True)
    for name in ("cycles", "share", "M MACs", "DRAM KiB", "roofline"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("bound", no_wrap=True)
    table.add_column("ONNX nodes", overflow="ellipsis", no_wrap=True, max_width=40)
    for row in rows:
        table.add_row(*_cells(row, result.cycles))
    return table


def _cells(row: LayerProfile, total: int) -> tuple[str, ...]:
    return (
        row.name, row.op, f"{row.cycles:,}", f"{100 * row.cycles / max(total, 1):.1f}%",
        f"{row.macs / 1e6:,.1f}" if row.macs else "",
        f"{row.dram_bytes / 1024:,.0f}" if row.dram_bytes else "", f"{100 * row.efficiency:.0f}%" if row.efficiency else "",
        row.bound if row.cycles else "", ", ".join(row.nodes),
    )  # fmt: skip


def to_csv(result: Profile) -> str:
    """The layers as CSV, with a row for idle cycles; its cycles sum to the total."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["name", "op", "nodes", "cycles", "macs", "dram_bytes", "efficiency", "bound"])
    for row in result.layers:
        efficiency = "" if row.efficiency is None else f"{row.efficiency:.6f}"
        writer.writerow(
            [
                row.name,
                row.op,
                " ".join(row.nodes),
                row.cycles,
                row.macs,
                row.dram_bytes,
                efficiency,
                row.bound,
            ]
        )
    writer.writerow(["idle", "", "", result.idle_cycles, 0, 0, "", ""])
    return buffer.getvalue()
