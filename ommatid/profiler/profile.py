"""A profile: one run in time, folded once through the source table to layers and ONNX nodes.

Every cycle from 0 to the end belongs to one row: to the layer of the earliest instruction, in program order,
that is running in it, or to no layer (``idle_cycles``) when none is. Rows and idle cycles sum to the total.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ommatid.isa.cost import dram_bytes
from ommatid.isa.instructions import Engine
from ommatid.isa.program import Program
from ommatid.simulator.energy import LEVELS, energy_pj, static_pj
from ommatid.simulator.timing import EngineTime, Timing, simulate

Array = np.ndarray[Any, Any]
ENGINE_NAMES = ("load", "store", "mx", "vx", "ctl")


@dataclass(frozen=True)
class LayerProfile:
    """One row. ``efficiency`` is the layer's term of ``roofline_cycles`` over its cycles, None without MACs."""

    name: str
    op: str
    nodes: tuple[str, ...]
    cycles: int
    macs: int
    dram_bytes: int
    efficiency: float | None
    bound: str


@dataclass(frozen=True)
class Profile:
    """What a run of a program takes, and where."""

    cycles: int
    latency_ms: float
    fps: float
    bound: str
    utilization: dict[str, float]
    cpu_partitions: tuple[dict[str, Any], ...]
    layers: tuple[LayerProfile, ...]
    idle_cycles: int
    engines: tuple[EngineTime, ...]
    mx_and_load_cycles: int
    energy_uj: dict[str, float]  # by level of ``energy.LEVELS``, and "static"

    def to_dict(self) -> dict[str, Any]:
        """The keys of ``profile`` (design 7)."""
        return {
            "cycles": self.cycles,
            "latency_ms": self.latency_ms,
            "fps": self.fps,
            "bound": self.bound,
            "utilization": self.utilization,
            "energy_uj": sum(self.energy_uj.values()),
            "cpu_partitions": list(self.cpu_partitions),
            "layers": [
                {
                    "name": row.name, "op": row.op, "nodes": list(row.nodes), "cycles": row.cycles, "macs": row.macs,
                    "dram_bytes": row.dram_bytes, "efficiency": row.efficiency, "bound": row.bound,
                }
                for row in self.layers
            ],
        }  # fmt: skip


def profile(program: Program) -> Profile:
    """Run a program in time and say where its cycles go; no tensor data is touched."""
    runs = [simulate(program, p.begin, p.end) for p in program.partitions if p.placement == "npu"]
    cycles = sum(run.cycles for run in runs)
    owned = np.zeros(len(program.layers) + 1, np.int64)
    busy = np.zeros((len(program.layers) + 1, 5))
    for run in runs:
        _attribute(program, run, owned, busy)
    moved = np.zeros(len(program.layers) + 1, np.int64)
    np.add.at(moved, program.layer_of, dram_bytes(program.instructions, program.target))
    engines = _summed(runs)
    seconds = cycles / (program.target.clock_mhz * 1e6)
    utilization = {
        name: sum(e.busy_cycles for e in engines if e.engine == name) / max(cycles, 1)
        for name in ENGINE_NAMES[:4]
    }
    rows = tuple(
        LayerProfile(
            layer.name, layer.op, layer.nodes, int(owned[i]), layer.macs, int(moved[i]),
            layer.roofline_cycles / int(owned[i]) if layer.macs and owned[i] else None, _bound(busy[i], int(owned[i])),
        )
        for i, layer in enumerate(program.layers)
    )  # fmt: skip
    return Profile(
        cycles=cycles,
        latency_ms=seconds * 1e3,
        fps=1 / seconds if seconds else 0.0,
        bound=_bound(busy.sum(axis=0), cycles),
        utilization=utilization,
        cpu_partitions=_cpu(program),
        layers=rows,
        idle_cycles=int(owned[-1]),
        engines=engines,
        energy_uj=_energy(program, cycles),
        mx_and_load_cycles=sum(run.overlap_cycles(Engine.MX, Engine.LOAD) for run in runs),
    )


def _energy(program: Program, cycles: int) -> dict[str, float]:
    levels = energy_pj(program.instructions, program.target).sum(axis=0) / 1e6
    by_level = dict(zip(LEVELS, levels.tolist(), strict=True))
    return by_level | {"static": static_pj(cycles, program.target) / 1e6}


def _attribute(program: Program, run: Timing, owned: Array, busy: Array) -> None:
    """Give each cycle of a run to the layer of the earliest running instruction in program order."""
    count = len(run.start)
    layer = program.layer_of[run.begin : run.begin + count]
    # earlier instructions paint over later ones, from the last to the first
    edges = np.unique(np.concatenate([run.start, run.finish, [0, run.cycles]]))
    owner = np.full(len(edges) - 1, -1, np.int64)
    first = np.searchsorted(edges, run.start)
    last = np.searchsorted(edges, run.finish)
    for i in range(count - 1, -1, -1):
        owner[first[i] : last[i]] = layer[i]
    np.add.at(owned, owner, np.diff(edges))
    np.add.at(busy, (layer, run.engine), run.released - run.start)


def _bound(busy: Array, cycles: int) -> str:
    """The engine that is busy most, "dram" for the two of DMA; "dependency" if none is for half the time."""
    if not cycles:
        return "dependency"
    shares = {
        "mx": busy[Engine.MX],
        "vx": busy[Engine.VX],
        "dram": max(busy[Engine.LOAD], busy[Engine.STORE], (busy[Engine.LOAD] + busy[Engine.STORE]) * 0.75),
    }
    name = max(shares, key=lambda key: shares[key])
    return name if shares[name] >= 0.5 * cycles else "dependency"


def _summed(runs: list[Timing]) -> tuple[EngineTime, ...]:
    table: dict[tuple[int, str], EngineTime] = {}
    for run in runs:
        for e in run.engines:
            old = table.get((e.core, e.engine))
            if old is None:
                table[e.core, e.engine] = e
                continue
            stalls = {cause: old.stall_cycles[cause] + value for cause, value in e.stall_cycles.items()}
            table[e.core, e.engine] = EngineTime(
                e.core, e.engine, old.busy_cycles + e.busy_cycles, stalls, old.idle_cycles + e.idle_cycles,
                old.port_bytes + e.port_bytes, old.macs + e.macs,
            )  # fmt: skip
    return tuple(table.values())


def _cpu(program: Program) -> tuple[dict[str, Any], ...]:
    sizes = {p.tensor.name: int(np.prod(p.tensor.shape)) for p in program.placed}
    return tuple(
        {
            "nodes": list(p.nodes),
            "reason": "; ".join(dict.fromkeys(p.reasons)),
            "transfer_bytes": sum(sizes.get(name, 0) for name in (*p.inputs, *p.outputs)),
        }
        for p in program.partitions
        if p.placement == "cpu"
    )
