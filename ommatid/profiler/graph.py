"""The network as layers that give tensors to layers, and where to draw each."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from ommatid.isa.program import ROLES, Program


def edges(program: Program) -> list[tuple[int, int]]:
    """(layer, layer that reads what it wrote), by the buffers that hold tensors, in order."""
    tensors = [ROLES.index(role) for role in ("input", "output", "activation")]
    writers: dict[int, set[int]] = defaultdict(set)
    for placed in program.placed:
        if placed.layer >= 0:
            writers[placed.symbol].add(placed.layer)
    found: set[tuple[int, int]] = set()
    for layer in np.unique(program.layer_of).tolist():
        symbols = np.unique(program.operands[program.layer_of == layer])
        for symbol in symbols[symbols >= 0].tolist():
            if layer >= 0 and program.symbols["role"][symbol] in tensors:
                found |= {(writer, layer) for writer in writers.get(symbol, ()) if writer < layer}
    return sorted(found)


def places(count: int, pairs: list[tuple[int, int]]) -> list[tuple[float, float]]:
    """Coordinates of ``count`` layers: to the right of all that they read; in a column, near what they read."""
    rank, above = [0] * count, [0.0] * count
    before: dict[int, list[int]] = defaultdict(list)
    for a, b in pairs:
        before[b].append(a)
    columns: dict[int, list[int]] = defaultdict(list)
    for layer in range(count):
        rank[layer] = max((rank[b] + 1 for b in before[layer]), default=0)
        columns[rank[layer]].append(layer)
    for _, members in sorted(columns.items()):
        wanted = {m: float(np.mean([above[b] for b in before[m]])) if before[m] else 0.0 for m in members}
        members.sort(key=lambda m: (wanted[m], m))
        middle = float(np.mean([wanted[m] for m in members]))
        for i, m in enumerate(members):
            above[m] = middle + i - (len(members) - 1) / 2
    return [(float(rank[i]), above[i]) for i in range(count)]
