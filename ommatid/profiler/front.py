"""The front of precisions as a table and as a drawing of characters."""

from __future__ import annotations

from rich.table import Table

from ommatid.profiler.precision import Front

COLUMNS, LINES = 60, 12


def front_table(front: Front) -> Table:
    """A row for each point, by cycles."""
    table = Table("16-bit tensors", "SQNR dB", "cycles", "of the extra cycles", "", title="8 and 16 bits")
    for point in front.points:
        note = "chosen" if point is front.chosen else ""
        figures = f"{point.sqnr_db:.1f}", f"{point.cycles:,}", f"{100 * front.extra(point):.0f}%"
        table.add_row(str(len(point.names)), *figures, note)
    return table


def drawing(front: Front) -> str:
    """SQNR (upwards) over the share of the extra cycles; the point chosen is an x, those all in 8 or 16 bits are o."""
    points = {*front.points, front.eight, front.sixteen}
    low, high = min(p.sqnr_db for p in points), max(p.sqnr_db for p in points)
    widest = max(1.0, *(front.extra(p) for p in points))
    cells = [[" "] * COLUMNS for _ in range(LINES)]
    for point in sorted(points, key=lambda p: (p is front.chosen, p.cycles)):
        column = round(max(front.extra(point), 0.0) / widest * (COLUMNS - 1))
        line = round((high - point.sqnr_db) / max(high - low, 1e-9) * (LINES - 1))
        ends = point in (front.eight, front.sixteen)
        cells[line][column] = "x" if point is front.chosen else "o" if ends else "*"
    labels = [f"{high:6.1f} dB"] + [" " * 9] * (LINES - 2) + [f"{low:6.1f} dB"]
    rows = [f"{label} |{''.join(row)}".rstrip() for label, row in zip(labels, cells, strict=True)]
    end = f"{100 * widest:.0f}% of the extra cycles of 16 bits"
    return "\n".join([*rows, " " * 10 + "+" + "-" * COLUMNS, " " * 11 + "0%" + end.rjust(COLUMNS - 2)])
