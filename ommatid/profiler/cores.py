"""What keeps several cores from being so many times as fast as one: where the cycles of their arrays go."""

from __future__ import annotations

import numpy as np

from ommatid.isa.instructions import INSTRUCTIONS, Engine
from ommatid.profiler.profile import Profile

#: By key: the stalls of an array that count for it, and what it is, for people.
WHERE: dict[str, tuple[tuple[str, ...], str]] = {
    "multiply": ((), "multiplying at the array's peak"),
    "not_full": ((), "multiplying with less: an array that is not full, passes of 16 bits, rows that two cores make"),
    "vector": (("token_vx",), "waiting for vector work"),
    "dram": (("bandwidth", "latency"), "waiting for the DRAM, which all share"),
    "send": (("token_store", "token_load", "token_mx"), "waiting for what other cores send or load, or for room there"),
    "sram": (("bank", "fetch", "token_ctl"), "waiting for banks or instructions"),
    "idle": ((), "with nothing left to do: shares that are not even, and layers that fewer cores make"),
}  # fmt: skip


def shares(result: Profile) -> dict[str, float]:
    """By the keys of WHERE, of how many cores the arrays' cycles go there; they sum to the cores. Empty for one core."""
    target = result.program.target
    if target.cores == 1 or not result.cycles:
        return {}
    arrays = [e for e in result.engines if e.engine == Engine.MX.name.lower()]
    macs = sum(row.macs for row in result.layers)
    found = {
        key: sum(e.stall_cycles[cause] for e in arrays for cause in causes) / result.cycles
        for key, (causes, _) in WHERE.items()
    }
    found["multiply"] = macs / target.macs_per_cycle / result.cycles
    found["not_full"] = sum(e.busy_cycles for e in arrays) / result.cycles - found["multiply"]
    found["idle"] = sum(e.idle_cycles for e in arrays) / result.cycles + target.cores - len(arrays)
    return found


def by_one_core(result: Profile) -> list[tuple[str, int]]:
    """Layers that a single one of several cores makes, and their cycles, the costliest first."""
    if result.program.target.cores == 1:
        return []
    stream, layer_of = result.program.instructions, result.program.layer_of
    computing = [row.opcode for row in INSTRUCTIONS if row.engine in (Engine.MX, Engine.VX)]
    works = np.isin(stream["opcode"], computing)
    found = []
    for i, row in enumerate(result.layers):
        if row.cycles and len(np.unique(stream["core"][works & (layer_of == i)])) == 1:
            found.append((row.name, row.cycles))
    return sorted(found, key=lambda pair: -pair[1])


def sentences(result: Profile) -> list[str]:
    """Both, for people, in parts that are no less than a hundredth of a core; none for one core."""
    found = [f"{value:.2f} cores: {WHERE[key][1]}" for key, value in shares(result).items() if value >= 0.005]
    alone = by_one_core(result)
    share = sum(cycles for _, cycles in alone) / max(result.cycles, 1)
    if share >= 0.005:
        names = ", ".join(name for name, _ in alone[:3]) + (
            f" and {len(alone) - 3} more" if len(alone) > 3 else ""
        )
        found.append(f"{100 * share:.1f}% of the cycles are of layers that one core makes: {names}")
    return found
