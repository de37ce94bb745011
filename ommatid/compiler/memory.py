"""Memory planning: which tensors stay in SRAM, and where they and the others lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ommatid.compiler.layers import Network
from ommatid.compiler.placement import place
from ommatid.compiler.placement_sections import Box
from ommatid.compiler.sram import aligned
from ommatid.compiler.storage import Storage, operands
from ommatid.isa.target import Target

#: The part of SRAM that tensors which stay may take together, unless told otherwise; the rest is for tiles.
RESIDENT_SHARE = 0.6


@dataclass(frozen=True)
class Lifetime:
    """A buffer is alive from layer ``first`` to layer ``last``, both included; ``uses`` counts them."""

    first: int
    last: int
    uses: int


def lifetimes(network: Network, storage: Storage) -> dict[str, Lifetime]:
    """The lifetime of every buffer that somebody writes, in layers counted over all stages."""
    touched: dict[str, list[int]] = {
        name: [] for name in storage.buffer_bytes if name not in network.constants
    }
    layers = network.layers
    for i, layer in enumerate(layers):
        if layer.name in storage.free_layers:
            continue
        for name in (*operands(layer), layer.output):
            if storage.spots[name].buffer in touched:
                touched[storage.spots[name].buffer].append(i)
    for name in network.fed:
        touched[storage.spots[name].buffer].append(0)
    for name in network.kept:
        touched[storage.spots[name].buffer].append(len(layers))
    return {name: Lifetime(min(at), max(at), len(at)) for name, at in touched.items() if at}


def choose_resident(
    network: Network, storage: Storage, lives: Mapping[str, Lifetime], target: Target, never: frozenset[str],
    share: float = RESIDENT_SHARE,
) -> frozenset[str]:  # fmt: skip
    """Buffers that stay in SRAM for their lifetime: most traffic saved per byte and layer first.

    Together they take at most ``share`` of it. What the host or a CPU partition reads or writes, and ``never``, lies
    in DRAM.
    """
    outside = {storage.spots[name].buffer for name in network.fed | network.kept} | never
    budget = int(target.sram_bytes * share)
    count = max((life.last for life in lives.values()), default=0) + 1
    used = [0] * count
    chosen = []

    def worth(name: str) -> tuple[float, int, str]:
        life = lives[name]
        return -life.uses / (life.last - life.first + 1), storage.buffer_bytes[name], name

    for name in sorted(lives.keys() - outside, key=worth):
        size, life = aligned(storage.buffer_bytes[name]), lives[name]
        span = range(life.first, life.last + 1)
        if all(used[i] + size <= budget for i in span):
            chosen.append(name)
            for i in span:
                used[i] += size
    return frozenset(chosen)


def place_in_dram(
    sizes: Mapping[str, int], lives: Mapping[str, Lifetime], resident: frozenset[str], steps: int = 0
) -> tuple[dict[str, int], int]:
    """Addresses of the buffers that lie in DRAM, and the bytes that they take together; ``steps`` as ``place`` has."""
    boxes = boxes_of(sizes, lives, lives.keys() - resident)
    placement = place(boxes, steps)
    return {box.name: int(at) for box, at in zip(boxes, placement.offsets, strict=True)}, placement.peak


def place_in_sram(
    sizes: Mapping[str, int], lives: Mapping[str, Lifetime], resident: frozenset[str], capacity: int, steps: int
) -> dict[str, int]:  # fmt: skip
    """Addresses of the buffers that stay in SRAM: in as little of its upper end as they need."""
    boxes = boxes_of(sizes, lives, resident)
    offsets = place(boxes, steps).offsets
    return {box.name: capacity - int(at) - box.size for box, at in zip(boxes, offsets, strict=True)}


def boxes_of(sizes: Mapping[str, int], lives: Mapping[str, Lifetime], names: Iterable[str]) -> list[Box]:
    """Buffers as boxes, by first use and name; sizes are multiples of 64 bytes."""
    ordered = sorted(names, key=lambda name: (lives[name].first, name))
    return [Box(name, lives[name].first, lives[name].last, aligned(sizes[name])) for name in ordered]


def alive_at_peak(boxes: Sequence[Box]) -> list[Box]:
    """Those alive at the time when together they are largest."""
    crowds = ([box for box in boxes if box.first <= new.first <= box.last] for new in boxes)
    return max(crowds, key=lambda crowd: sum(box.size for box in crowd), default=[])
