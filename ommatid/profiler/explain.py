"""What limits a network on a chip, in plain English with figures, and what a larger chip would give.

What-ifs are no estimates: the model is compiled anew for each chip, and that program simulated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ommatid.compiler.errors import CompileError
from ommatid.compiler.front import FrontOptions, build_network
from ommatid.compiler.layers import Network
from ommatid.compiler.recipe import Recipe, from_toml
from ommatid.isa.program import Program
from ommatid.isa.target import Target, TargetError
from ommatid.profiler.profile import BOUNDS, Profile, profile
from ommatid.runtime.compile import compile_network
from ommatid.runtime.variants import shapes_of

#: What a bound means.
MEANING = {
    "mx": "the MAC array is busy",
    "vx": "the vector engine is busy",
    "dram": "the DRAM is busy with bytes that have to move",
    "sram": "the DRAM is busy with bytes that a larger SRAM would keep",
    "dependency": "engines wait for each other",
}
#: What is doubled: a name, the fields of the target. The array comes with the port that feeds it.
DOUBLED = {
    "SRAM": ("sram_kib",),
    "DRAM bandwidth": ("dram_gb_s",),
    "array": ("mx_pixels", "port_mx_activation_bytes_per_cycle", "depthwise_macs_per_cycle"),
    "clock": ("clock_mhz",),
}


@dataclass(frozen=True)
class WhatIf:
    """Twice something: the chip's settings, and what the network then takes; ``reason``: why it takes nothing."""

    change: str
    settings: dict[str, float]
    cycles: int | None = None
    latency_ms: float | None = None
    speedup: float | None = None
    bound: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class Explanation:
    """``lost`` are the cycles above the roofline by bound: (bound, cycles, layers, the worst first)."""

    result: Profile
    lost: tuple[tuple[str, int, tuple[str, ...]], ...]
    what_ifs: tuple[WhatIf, ...]

    def to_dict(self) -> dict[str, Any]:
        """The keys of ``explain`` (design 7)."""
        return {
            "bound": self.result.bound,
            "cycles": self.result.cycles,
            "latency_ms": self.result.latency_ms,
            "lost": [{"bound": b, "cycles": c, "layers": list(names)} for b, c, names in self.lost],
            "what_ifs": [dataclasses.asdict(w) for w in self.what_ifs],
            "lines": list(self.lines()),
        }

    def lines(self) -> Iterator[str]:
        """Ten lines at most."""
        result, program = self.result, self.result.program
        host = [(node, part["reason"]) for part in result.cpu_partitions for node in part["nodes"]]
        if not result.cycles:
            reason = host[0][1] if host else "it has no nodes"
            yield f"Nothing of it runs on the NPU: {len(host)} nodes are on the CPU, {reason}."
            return
        yield (
            f"{program.info.get('model', 'The network')} on {program.target.name} takes {result.cycles:,} cycles, "
            f"{result.latency_ms:,.3f} ms; a good schedule would reach {program.roofline_cycles:,.0f}, and nothing is "
            f"below {program.lower_bound_cycles:,.0f}."
        )
        busy = ", ".join(f"{name} {100 * share:.0f}%" for name, share in result.utilization.items())
        yield f"It is bound by {result.bound}: {MEANING[result.bound]} (engines at work: {busy})."
        moved, spilled = (
            sum(getattr(r, key) for r in result.rows) for key in ("dram_bytes", "spilled_bytes")
        )
        yield (
            f"It moves {moved / 2**20:,.1f} MiB of DRAM, {spilled / 2**20:,.1f} of them for want of SRAM; "
            f"{program.compulsory_dram_bytes / 2**20:,.1f} MiB have to move."
        )
        shares = [
            (b, c, names, 100 * c / max(result.cycles, 1)) for b, c, names in self.lost[: 2 if host else 3]
        ]
        for bound, cycles, names, share in (each for each in shares if each[3] >= 0.5):
            yield (
                f"{cycles:,} cycles ({share:.0f}%) above the roofline are where {MEANING[bound]}, most in {', '.join(names)}."
            )
        if host:
            yield f"{len(host)} nodes run on the CPU, whose time is not counted; {host[0][0]}: {host[0][1]}."
        for each in self.what_ifs:
            if each.cycles is None:
                yield f"Twice the {each.change}: not known, {each.reason}."
            else:
                gain = f"{each.speedup:.2f} times as fast"
                yield f"Twice the {each.change}: {each.cycles:,} cycles, {each.latency_ms:,.3f} ms, {gain}, bound by {each.bound}."


def explain(
    program: Program, model: Any = None, progress: Callable[[str], None] | None = None
) -> Explanation:
    """What limits a program; ``model`` is the file that it was compiled from, without which what-ifs are unknown.

    Raises:
        CompileError: the model is another one.
    """
    result = profile(program)
    network = None if model is None or not result.cycles else network_of(program, model)
    if network is not None and {s.name for s in network.sources} != {n.name for n in program.nodes}:
        raise CompileError(
            f"{model}: is not the model of the program", "give the one that it was compiled from"
        )
    what_ifs = []
    for change, fields in DOUBLED.items():
        if progress:
            progress(f"twice the {change}")
        what_ifs.append(_what_if(result, network, change, fields))
    return Explanation(result, lost_by_bound(result), tuple(what_ifs))


def network_of(program: Program, model: Any) -> Network:
    """The network that a program was compiled from, with its shapes, its ranges and its cut.

    Raises:
        CompileError: the model cannot be used, or is another one.
    """
    recipe = _ranges_of(program) if "recipe" in program.info else None
    options = FrontOptions(
        shapes=shapes_of(program.inputs),
        inputs=tuple(port.name for port in program.inputs),
        outputs=tuple(port.name for port in program.outputs),
        recipe=recipe,
        method="minmax",
    )
    return build_network(model, options)


def _ranges_of(program: Program) -> Recipe:
    """The program's recipe without what needs data: numbers change by that, and no cycle."""
    recipe = from_toml(program.info["recipe"], "the program's recipe")
    layers = {
        name: dataclasses.replace(layer, equalize=None, correct_bias=None)
        for name, layer in recipe.layers.items()
    }
    return dataclasses.replace(recipe, layers=layers)


def beside(path: str, program: Program) -> str | None:
    """The model's file, if it stands beside the program under the name that the program knows, or under its own."""
    names = (program.info.get("model"), Path(path).with_suffix(".onnx").name)
    found = (Path(path).parent / name for name in names if name)
    return next((str(file) for file in found if file.is_file()), None)


def lost_by_bound(result: Profile) -> tuple[tuple[str, int, tuple[str, ...]], ...]:
    """Cycles above the layers' rooflines by what bounds them, the most first; layers that lose most, three at most."""
    rows = list(zip(result.layers, result.program.layers, strict=True))
    lost = [(max(row.cycles - layer.roofline_cycles, 0), row) for row, layer in rows]
    table = []
    for bound in BOUNDS:
        mine = sorted(((by, row) for by, row in lost if row.bound == bound and by), key=lambda x: -x[0])
        cycles = round(sum(by for by, _ in mine)) + (result.idle.cycles if bound == result.idle.bound else 0)
        if cycles:
            table.append((bound, cycles, tuple(row.name for _, row in mine[:3]) or (result.idle.name,)))
    return tuple(sorted(table, key=lambda entry: -entry[1]))


def _what_if(result: Profile, network: Network | None, change: str, fields: tuple[str, ...]) -> WhatIf:
    target = result.program.target
    settings = {name: 2 * getattr(target, name) for name in fields}
    if network is None:
        return WhatIf(change, settings, reason="without the model nothing can be compiled: give --model")
    try:
        made = compiled_for(network, target, settings, result.program.info.get("optimize", 2))
    except (CompileError, TargetError) as error:
        return WhatIf(change, settings, reason=str(error))
    found = profile(made)
    gain = result.latency_ms / found.latency_ms if found.latency_ms else None
    return WhatIf(change, settings, found.cycles, found.latency_ms, gain, found.bound)


def compiled_for(network: Network, target: Target, settings: dict[str, Any], optimize: int) -> Program:
    """The network's program for a chip like ``target`` with other settings.

    Raises:
        CompileError, TargetError: it does not fit, or there can be no such chip.
    """
    changed = dataclasses.replace(target, name=f"{target.name}, changed", **settings)
    return compile_network(network, changed, optimize)
