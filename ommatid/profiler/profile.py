"""A profile: one run in time, folded once through the source table to layers and ONNX nodes.

Every cycle from 0 to the end belongs to one row: to the layer of the earliest instruction, in program order,
that is running in it, or to no layer (``idle``) when none is. Rows sum to the total. All views read this object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ommatid.isa.cost import dram_bytes
from ommatid.isa.instructions import Engine
from ommatid.isa.program import Node, Program
from ommatid.profiler.causes import CAUSES, lost_cycles, spilled_bytes
from ommatid.profiler.sram import sram_lives, sram_used
from ommatid.simulator.energy import LEVELS, energy_pj, static_pj
from ommatid.simulator.timing import EngineTime, Timing, simulate

Array = np.ndarray[Any, Any]
ENGINE_NAMES = ("load", "store", "mx", "vx", "ctl")
BOUNDS = ("mx", "vx", "dram", "sram", "dependency")
IDLE = "idle"


@dataclass(frozen=True)
class LayerProfile:
    """One row. ``efficiency`` is the layer's term of ``roofline_cycles`` over its cycles, ``utilization`` its MACs
    over what the array does in them; None without MACs. ``stall_cycles`` are engine cycles by CAUSES: waits of the
    row's instructions, also while cycles belong to another row."""

    name: str
    op: str
    nodes: tuple[str, ...]
    cycles: int
    macs: int
    dram_bytes: int
    efficiency: float | None
    bound: str
    instructions: int = 0
    utilization: float | None = None
    sram_peak_bytes: int = 0
    spilled_bytes: int = 0  # of dram_bytes, those that an SRAM large enough would save
    energy_uj: float = 0.0
    stall_cycles: tuple[int, ...] = (0,) * len(CAUSES)
    energy_by_level_uj: tuple[float, ...] = ()  # by LEVELS, and static


@dataclass(frozen=True)
class Profile:
    """What a run of a program takes, and where."""

    program: Program
    runs: tuple[Timing, ...]  # of the NPU's partitions, one after the other
    cycles: int
    latency_ms: float
    fps: float
    bound: str
    utilization: dict[str, float]
    cpu_partitions: tuple[dict[str, Any], ...]
    layers: tuple[LayerProfile, ...]
    idle: LayerProfile
    engines: tuple[EngineTime, ...]
    mx_and_load_cycles: int
    energy_uj: dict[str, float]  # by level of ``energy.LEVELS``, and "static"
    owners: Array  # int64 [span, 3]: begin, end (cycles) and layer (-1: idle), in order, no gap

    @property
    def rows(self) -> tuple[LayerProfile, ...]:
        """The layers in order, and what belongs to none."""
        return (*self.layers, self.idle)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The user's ONNX nodes, and what became of them."""
        return self.program.nodes

    def to_dict(self) -> dict[str, Any]:
        """The keys of ``profile`` (design 7)."""
        from ommatid.profiler.cores import by_one_core, shares
        from ommatid.profiler.table import table

        return {
            "cycles": self.cycles,
            "latency_ms": self.latency_ms,
            "fps": self.fps,
            "bound": self.bound,
            "utilization": self.utilization,
            "energy_uj": sum(self.energy_uj.values()),
            "cpu_partitions": list(self.cpu_partitions),
            "cores": shares(self),
            "one_core_layers": [name for name, _ in by_one_core(self)],
            "layers": table(self),
            "nodes": [
                {"name": node.name, "op": node.op, "fate": node.fate, "layers": list(node.layers)}
                for node in self.nodes
            ],
        }


def profile(program: Program) -> Profile:
    """Run a program in time and say where its cycles go; no tensor data is touched."""
    runs = tuple(simulate(program, p.begin, p.end) for p in program.partitions if p.placement == "npu")
    cycles = sum(run.cycles for run in runs)
    sums = _Sums(program, runs)
    owners = _owners(program, runs)
    owned = np.zeros(len(program.layers) + 1, np.int64)
    np.add.at(owned, owners[:, 2], owners[:, 1] - owners[:, 0])
    engines = _summed(runs)
    seconds = cycles / (program.target.clock_mhz * 1e6)
    utilization = {
        name: sum(e.busy_cycles for e in engines if e.engine == name) / max(cycles, 1)
        for name in ENGINE_NAMES[:4]
    }
    rows = [sums.row(program, i, int(owned[i])) for i in range(-1, len(program.layers))]
    return Profile(
        program=program,
        runs=runs,
        cycles=cycles,
        latency_ms=seconds * 1e3,
        fps=1 / seconds if seconds else 0.0,
        bound=_bound(sums.busy.sum(axis=0), cycles, int(sums.spilled.sum()), int(sums.moved.sum())),
        utilization=utilization,
        cpu_partitions=_cpu(program),
        layers=tuple(rows[1:]),
        idle=rows[0],
        engines=engines,
        energy_uj=dict(zip(LEVELS, sums.energy.sum(axis=0).tolist(), strict=True))
        | {"static": static_pj(cycles, program.target) / 1e6},
        mx_and_load_cycles=sum(run.overlap_cycles(Engine.MX, Engine.LOAD) for run in runs),
        owners=owners,
    )


class _Sums:
    """What instructions do, summed by layer; the last entry is of those without one."""

    def __init__(self, program: Program, runs: tuple[Timing, ...]) -> None:
        count, stream = len(program.layers) + 1, program.instructions
        self.moved, self.spilled, self.instructions, self.sram = np.zeros((4, count), np.int64)
        self.lost = np.zeros((count, len(CAUSES)), np.int64)
        self.busy = np.zeros((count, len(ENGINE_NAMES)))
        self.energy = np.zeros((count, len(LEVELS)))
        np.add.at(self.moved, program.layer_of, dram_bytes(stream, program.target))
        np.add.at(self.spilled, program.layer_of, spilled_bytes(program))
        np.add.at(self.instructions, program.layer_of, 1)
        np.add.at(self.energy, program.layer_of, energy_pj(stream, program.target) / 1e6)
        np.maximum.at(self.sram, program.layer_of, sram_used(program, sram_lives(program)))
        for run in runs:
            layer = program.layer_of[run.begin : run.begin + len(run.start)]
            np.add.at(self.lost, layer, lost_cycles(program, run))
            np.add.at(self.busy, (layer, run.engine), run.released - run.start)

    def row(self, program: Program, i: int, cycles: int) -> LayerProfile:
        """Layer ``i``'s row, -1: that of no layer."""
        layer = program.layers[i] if i >= 0 else None
        macs = layer.macs if layer else 0
        peak = program.target.macs_per_cycle * program.target.cores
        by_level = (*self.energy[i].tolist(), static_pj(cycles, program.target) / 1e6)
        bound = _bound(self.busy[i], cycles, int(self.spilled[i]), int(self.moved[i]))
        return LayerProfile(
            name=layer.name if layer else IDLE,
            op=layer.op if layer else "",
            nodes=layer.nodes if layer else (),
            cycles=cycles,
            macs=macs,
            dram_bytes=int(self.moved[i]),
            efficiency=layer.roofline_cycles / cycles if layer and macs and cycles else None,
            bound=bound,
            instructions=int(self.instructions[i]),
            utilization=macs / peak / cycles if macs and cycles else None,
            sram_peak_bytes=int(self.sram[i]),
            spilled_bytes=int(self.spilled[i]),
            energy_uj=sum(by_level),
            stall_cycles=tuple(self.lost[i].tolist()),
            energy_by_level_uj=by_level,
        )


def _owners(program: Program, runs: tuple[Timing, ...]) -> Array:
    """Each cycle given to the layer of the earliest running instruction in program order, as spans."""
    spans, base = [np.zeros((0, 3), np.int64)], 0
    for run in runs:
        layer = program.layer_of[run.begin : run.begin + len(run.start)]
        edges = np.unique(np.concatenate([run.start, run.finish, [0, run.cycles]]))
        owner = np.full(len(edges) - 1, -1, np.int64)
        first, last = np.searchsorted(edges, run.start), np.searchsorted(edges, run.finish)
        for i in range(len(run.start) - 1, -1, -1):  # earlier instructions paint over later ones
            owner[first[i] : last[i]] = layer[i]
        turns = np.flatnonzero(np.diff(owner, prepend=-2))
        ends = np.append(edges[turns[1:]], edges[-1]) if len(turns) else edges[:0]
        spans.append(np.stack([edges[turns] + base, ends + base, owner[turns]], axis=1))
        base += run.cycles
    return np.concatenate(spans)


def _bound(busy: Array, cycles: int, spilled: int, moved: int) -> str:
    """The engine that is busy most; "dependency" if none is for half the time. For the two of DMA it is "dram", or
    "sram" where most of the bytes move only for want of SRAM."""
    if not cycles:
        return "dependency"
    shares = {
        "mx": busy[Engine.MX],
        "vx": busy[Engine.VX],
        "dram": max(busy[Engine.LOAD], busy[Engine.STORE], (busy[Engine.LOAD] + busy[Engine.STORE]) * 0.75),
    }
    name = max(shares, key=lambda key: shares[key])
    if shares[name] < 0.5 * cycles:
        return "dependency"
    return "sram" if name == "dram" and 2 * spilled > moved else name


def _summed(runs: tuple[Timing, ...]) -> tuple[EngineTime, ...]:
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
