"""Layers of the vector engine woven into the convolution before them.

A pooling or a normalisation leaves mx idle, and a convolution most of vx. Where one follows the other, their pieces are
emitted in turns: those of vx where mx keeps it waiting, as soon as the rows that they read have been made.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ommatid.compiler.layers import Conv, Layer, Lrn, Network, Norm, Pool, Softmax, Stage, nhwc
from ommatid.compiler.lower import Lowering
from ommatid.compiler.parts import Parts, by_channels
from ommatid.compiler.rows import Rows
from ommatid.compiler.storage import Storage, operands

#: Operations that are worth it: several passes of the vector engine.
WOVEN = Pool | Lrn | Norm | Softmax


def beside_convolutions(network: Network) -> Network:
    """The network with what can be woven directly after the largest convolution that it need not wait for."""
    return replace(network, stages=tuple(replace(s, layers=_reordered(network, s)) for s in network.stages))


def _reordered(network: Network, stage: Stage) -> tuple[Layer, ...]:
    layers = list(stage.layers)
    taken: set[str] = set()
    for layer in stage.layers:
        if not isinstance(layer.operation, WOVEN):
            continue
        at = layers.index(layer)
        made = {name: i for i, other in enumerate(layers) for name in [other.output]}
        first = max((made[name] for name in operands(layer) if name in made), default=-1)
        found = [
            other
            for other in layers[max(first, 0) : at]
            if isinstance(other.operation, Conv) and other.name not in taken
        ]
        if found:
            best = max(found, key=lambda other: other.macs)
            taken.add(best.name)
            layers.remove(layer)
            layers.insert(layers.index(best) + 1, layer)
    return tuple(layers)


def woven_groups(
    network: Network, storage: Storage, parts: Mapping[int, Parts], apart: frozenset[int]
) -> list[range]:
    """Runs of layers, by number: a convolution and what is woven into it. None begins with a layer of ``apart``."""
    groups = []
    layers, edges = network.layers, set(itertools.accumulate(len(stage.layers) for stage in network.stages))
    for first, layer in enumerate(layers):
        if not isinstance(layer.operation, Conv) or first not in parts or first in apart:
            continue
        n, h, w, _ = nhwc(network.tensors[layer.output].shape)
        if by_channels(parts[first]) and (
            n > 1 or h == 1 < w
        ):  # it takes all images together, or pixels as rows
            continue
        last = first
        for after in range(first + 1, len(layers)):
            free = layers[after].name in storage.free_layers
            if after in edges or not (
                free or (after in parts and isinstance(layers[after].operation, WOVEN))
            ):
                break
            last = last if free else after
        if last > first:
            groups.append(range(first, last + 1))
    return groups


@dataclass(frozen=True)
class Member:
    """A layer of a group: its number, and how it is made by rows in parts."""

    number: int
    layer: Layer
    rows: Rows
    parts: Parts


class _Made:
    """Which rows of the outputs of a group have been emitted."""

    def __init__(self, low: Lowering, members: Sequence[Member]) -> None:
        self._low = low
        self._members = members
        self._done = {
            m.number: np.zeros(nhwc(low.network.tensors[m.layer.output].shape)[:2], np.int64) for m in members
        }

    def add(self, member: Member, core: int, stripe: tuple[int, int, int]) -> None:
        """A core has made a stripe of its part."""
        image, first, rows = stripe
        low, high = member.parts[core].channels
        self._done[member.number][image, first : first + rows] += high - low

    def ready(self, member: Member, stripe: tuple[int, int, int]) -> bool:
        """Whether all that a stripe reads is there."""
        image, first, rows = stripe
        spots = self._low.storage.spots
        for name, (begin, end) in member.rows.needs(first, rows).items():
            for maker in self._members[: self._members.index(member)]:
                if spots[maker.layer.output].buffer != spots[name].buffer:
                    continue
                done = self._done[maker.number]
                whole = max(part.channels[1] for part in maker.parts)
                same = nhwc(self._low.network.tensors[name].shape)[:2] == done.shape
                part = done[image, begin:end] if same else done
                if (part < whole).any():
                    return False
        return True


def emit_woven(low: Lowering, members: Sequence[Member]) -> None:
    """Emit a convolution, the first of the members, and what is woven into it."""
    main, made = members[0], _Made(low, members)
    cores = range(low.target.cores)
    todo = {core: _pieces(low, members[1:], core) for core in cores}
    clocks = {core: [0, 0] for core in cores}  # when mx and vx are done with what was emitted

    def begin(core: int, member: Member) -> None:
        low.parts, low.emitter.layer = member.parts, member.number
        low.on(core)

    def weave(core: int, until: int | None) -> bool:
        """Emit a piece of what is woven that is ready and done by then; whether there was one."""
        for piece in todo[core]:
            member, stripe = piece
            if made.ready(member, stripe):
                begin(core, member)
                work = member.rows.emit(*stripe)
                cycles = next(work)[1]
                if until is not None and clocks[core][1] + cycles > until:
                    return False
                for _ in work:
                    pass
                clocks[core][1] += cycles
                made.add(member, core, stripe)
                todo[core].remove(piece)
                return True
        return False

    stripes = {
        core: main.rows.stripes(main.parts, core) if main.parts[core].pixel_rows else [] for core in cores
    }
    for number in range(max(map(len, stripes.values()))):
        work = {core: main.rows.emit(*mine[number]) for core, mine in stripes.items() if number < len(mine)}
        while work:
            for core, pieces in list(work.items()):
                begin(core, main)
                cycles = next(pieces, None)
                if cycles is None:
                    del work[core]
                    made.add(main, core, stripes[core][number])
                    continue
                done = clocks[core][0] + cycles[0]
                while weave(core, done + cycles[1]):
                    pass
                clocks[core] = [done, max(clocks[core][1], done) + cycles[1]]
    while sum(weave(core, None) for core in cores):
        pass
    low.end_layer()


def _pieces(low: Lowering, members: Sequence[Member], core: int) -> list[tuple[Member, tuple[int, int, int]]]:
    """What a core has to make of the woven layers: row by row, unless that takes tiles."""
    pieces = []
    for member in members:
        if not member.parts[core].pixel_rows:
            continue
        stays = all(low.stays(name) for name in (*operands(member.layer), member.layer.output))
        for image, first, rows in member.rows.stripes(member.parts, core):
            step = 1 if stays else rows
            pieces += [
                (member, (image, at, min(step, first + rows - at))) for at in range(first, first + rows, step)
            ]
    return pieces
