"""A profile as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from ommatid.isa.assembly import instruction_lines
from ommatid.profiler.cores import sentences
from ommatid.profiler.extras import needed
from ommatid.profiler.graph import edges, places
from ommatid.profiler.profile import ENGINE_NAMES, LayerProfile, Profile
from ommatid.profiler.sram import sram_lives
from ommatid.profiler.table import COLUMNS, table
from ommatid.profiler.trace import instruction_times
from ommatid.simulator.energy import LEVELS, area

PAGE = Path(__file__).parent / "page"
#: Opportunities in the summary.
MOST = 3


def to_html(result: Profile) -> str:
    """The page.

    Raises:
        MissingExtra: the packages of the extra ``report`` are not installed.
    """
    jinja2, offline = needed("jinja2", "report"), needed("plotly.offline", "report")
    packed = gzip.compress(
        json.dumps(page_data(result), separators=(",", ":"), allow_nan=False).encode(), mtime=0
    )
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(PAGE), autoescape=True)
    page = environment.get_template("page.html.j2").render(
        title=title(result),
        css=(PAGE / "page.css").read_text(encoding="utf-8"),
        script=(PAGE / "page.js").read_text(encoding="utf-8"),
        plotly=offline.get_plotlyjs(),
        data=base64.b64encode(packed).decode(),
        facts=facts(result),
        opportunities=opportunities(result),
        cores=sentences(result),
    )
    return str(page)


def title(result: Profile) -> str:
    """What the page is about."""
    return f"{result.program.info.get('model', 'network')} on {result.program.target.name}"


def facts(result: Profile) -> list[tuple[str, str]]:
    """The summary: figures for people."""
    chip = area(result.program.target)
    share = result.program.roofline_cycles / max(result.cycles, 1)
    host = [node for part in result.cpu_partitions for node in part["nodes"]]
    return [
        ("latency", f"{result.latency_ms:,.3f} ms"),
        ("frames a second", f"{result.fps:,.1f}"),
        ("cycles", f"{result.cycles:,}"),
        ("roofline over cycles", f"{100 * share:.0f}%"),
        ("energy", f"{sum(result.energy_uj.values()):,.0f} uJ"),
        ("area of the chip", f"{chip.total_mm2:,.2f} mm²"),
        ("bound by", result.bound),
        ("DRAM traffic", f"{sum(r.dram_bytes for r in result.rows) / 2**20:,.2f} MiB"),
        ("SRAM peak", f"{max(r.sram_peak_bytes for r in result.rows) / 1024:,.0f} KiB"),
        ("nodes on the host", f"{len(host)}"),
    ]


def opportunities(result: Profile) -> list[str]:
    """The layers that lose the most cycles to what bounds them."""
    layers = zip(result.layers, result.program.layers, strict=True)
    lost = [(row.cycles - layer.roofline_cycles, row, layer.roofline_cycles) for row, layer in layers]
    return [_sentence(row, roof) for by, row, roof in sorted(lost, key=lambda x: -x[0])[:MOST] if by > 0]


def _sentence(row: LayerProfile, roof: float) -> str:
    reason = {
        "sram": f"{row.spilled_bytes / 1024:,.0f} of its {row.dram_bytes / 1024:,.0f} KiB of DRAM traffic are for want of SRAM",
        "dram": f"it moves {row.dram_bytes / 1024:,.0f} KiB of DRAM",
        "mx": "the array is busy with less than it could do",
        "vx": "the vector engine is busy throughout",
        "dependency": "engines wait for each other",
    }[row.bound]
    least = f", {roof:,.0f} by the roofline" if roof else ", without any MACs"
    return f"{row.name} ({row.op}): {row.cycles:,} cycles{least}; {reason}."


def page_data(result: Profile) -> dict[str, Any]:
    """All that the page draws."""
    program, target = result.program, result.program.target
    rows = table(result)
    lives, (start, finish) = sram_lives(program), instruction_times(result)
    pairs = edges(program)
    return {
        "cycles": result.cycles,
        "columns": [{"key": c.key, "title": c.title, "kind": c.kind} for c in COLUMNS],
        "rows": rows,
        "nodes": [[n.name, n.op, n.fate, list(n.layers)] for n in result.nodes],
        "owners": result.owners.ravel().tolist(),
        "instructions": _instructions(result),
        "sram": {
            "bytes": target.sram_bytes,
            "begin": start[lives.first].tolist(),
            "end": finish[lives.last].tolist(),
            "address": lives.address.tolist(),
            "size": lives.bytes.tolist(),
            "role": list(lives.role),
            "layer": lives.layer.tolist(),
        },
        "roof": {"macs": target.macs_per_cycle * target.cores, "bandwidth": target.dram_bytes_per_cycle},
        "levels": [*LEVELS, "static"],
        "energy": [[round(value, 4) for value in row.energy_by_level_uj] for row in result.rows],
        "graph": {"edges": pairs, "places": places(len(program.layers), pairs)},
    }


def _instructions(result: Profile) -> dict[str, Any]:
    """By engine: when each instruction starts and leaves it, its layer, and its text."""
    lines = [line.partition("  ; ")[0].strip() for line in instruction_lines(result.program)]
    queues: dict[str, dict[str, list[Any]]] = {}
    base = 0
    for run in result.runs:
        for core in np.unique(run.core).tolist():
            for engine, name in enumerate(ENGINE_NAMES[:4]):
                mine = np.flatnonzero((run.core == core) & (run.engine == engine))
                if len(mine):
                    at = queues.setdefault(f"core {core} {name}", {"b": [], "e": [], "l": [], "t": []})
                    at["b"] += (run.start[mine] + base).tolist()
                    at["e"] += (run.released[mine] + base).tolist()
                    at["l"] += result.program.layer_of[run.begin + mine].tolist()
                    at["t"] += [lines[run.begin + i] for i in mine.tolist()]
        base += run.cycles
    return queues
