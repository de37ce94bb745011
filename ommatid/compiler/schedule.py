"""The schedule: layers in order, each lowered with what memory planning decided; then tokens.

Where a layer does not fit beside the tensors that stay in SRAM, the largest of them moves to DRAM and the
schedule is made again: lowering is quick, and every later decision then sees the truth.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ommatid.compiler.cascade import BY_ROWS, Cascade, inner_buffers, widened
from ommatid.compiler.layers import (
    Concat,
    Layer,
    MatMul,
    Network,
    Pad,
    Slice,
    TopK,
    Transpose,
    View,
)
from ommatid.compiler.lower import Lowering
from ommatid.compiler.lower_cascade import lower_cascade
from ommatid.compiler.lower_matmul import lower_matmul
from ommatid.compiler.lower_shape import lower_concat, lower_pad, lower_slice, lower_transpose, lower_view
from ommatid.compiler.lower_topk import lower_topk
from ommatid.compiler.memory import (
    RESIDENT_SHARE,
    Lifetime,
    choose_resident,
    lifetimes,
    place_in_dram,
    place_in_sram,
)
from ommatid.compiler.parts import Parts, Range, divide, held, held_bytes
from ommatid.compiler.pitch import pitched
from ommatid.compiler.placement import EXACT, FAST
from ommatid.compiler.rows import emit_layer
from ommatid.compiler.sram import DoesNotFit
from ommatid.compiler.storage import Storage, operands, plan_storage
from ommatid.compiler.weave import Member, emit_woven, woven_groups
from ommatid.isa.program import Partition, Placed
from ommatid.isa.target import Target

#: Operations that are lowered whole; BY_ROWS has the others.
LOWER: dict[type, Callable[[Lowering, Layer], None]] = {
    MatMul: lower_matmul,
    TopK: lower_topk,
    Concat: lower_concat,
    Slice: lower_slice,
    Pad: lower_pad,
    Transpose: lower_transpose,
    View: lower_view,
}


#: What is tried for several cores: the part of the cycles of sending a tensor around that is not hidden behind the
#: array, and the part of SRAM that tensors which stay may take together.
SENDING = (
    (0.2, RESIDENT_SHARE),
    (0.1, RESIDENT_SHARE),
    (0.4, RESIDENT_SHARE),
    (0.8, RESIDENT_SHARE),
    (0.1, 0.9),
)


class CascadeDoesNotFit(Exception):
    """A cascade's tiles and weights need more SRAM than is free."""

    def __init__(self, cascade: Cascade) -> None:
        super().__init__(cascade)
        self.cascade = cascade


class LayerDoesNotFit(Exception):
    """A layer needs so much SRAM for its smallest tiles, with all that lies there beside them."""

    def __init__(self, index: int, layer: Layer, need_bytes: int) -> None:
        super().__init__(layer.name)
        self.index, self.layer, self.need_bytes = index, layer, need_bytes


@dataclass(frozen=True)
class Plan:
    """What is decided before lowering: where buffers lie, and which layers are made together.

    ``inner`` has for each cascade the buffers of which only some rows are in SRAM at a time: those among ``lives`` are
    stored as they are made, for layers behind the cascade. ``resident`` are those that stay in SRAM, from ``first`` to
    ``last`` layer of ``lives``.
    """

    network: Network
    target: Target
    storage: Storage
    lives: Mapping[str, Lifetime]
    resident: frozenset[str]
    inner: Mapping[Cascade, frozenset[str]]
    single: frozenset[int] = frozenset()  # layers that load nothing ahead: they would not fit
    parts: Mapping[int, Parts] = field(default_factory=dict)  # of layers that cores share
    held: Mapping[str, tuple[Range, ...]] = field(
        default_factory=dict
    )  # by buffer what each core holds of it
    woven: tuple[range, ...] = ()  # layers of vx with the convolution before them
    dram_address: Mapping[str, int] = field(default_factory=dict)
    activation_bytes: int = 0  # of the DRAM
    sram_address: Mapping[str, int] = field(default_factory=dict)  # of those that stay, if it is planned

    @functools.cached_property
    def read_last(self) -> Mapping[int, Sequence[str]]:
        """By layer the buffers that stay in SRAM up to it."""
        buffers: dict[int, list[str]] = {}
        for name in self.resident:
            buffers.setdefault(self.lives[name].last, []).append(name)
        return buffers


@dataclass(frozen=True)
class Scheduled:
    """A lowered plan: the emitter's state, what lies where, partitions."""

    plan: Plan
    lowering: Lowering
    placed: tuple[Placed, ...]
    partitions: tuple[Partition, ...]

    @property
    def dram_bytes(self) -> int:
        """DRAM bytes of constants, instructions and activations."""
        return self.lowering.emitter.dram_base + self.plan.activation_bytes

    @property
    def lacking_bytes(self) -> int:
        """DRAM bytes that the target has too few."""
        return max(self.dram_bytes - self.plan.target.dram_bytes, 0)


def make_plan(
    network: Network, target: Target, storage: Storage, cascades: Iterable[Cascade] = (),
    never: frozenset[str] = frozenset(), single: frozenset[int] = frozenset(), alone: frozenset[int] = frozenset(),
    apart: frozenset[int] = frozenset(), sending: tuple[float, float] = SENDING[0], steps: tuple[int, int] = (0, 0),
    touched: Mapping[str, Lifetime] | None = None,
) -> Plan:  # fmt: skip
    """A plan with these cascades, in which the buffers ``never`` do not stay in SRAM, one core makes ``alone``, and
    nothing is woven into ``apart``. Addresses in DRAM and in SRAM are by a search of so many ``steps``; ``touched`` are
    the ``lifetimes``, if they are known."""
    touched = touched or lifetimes(network, storage)
    inner = {c: inner_buffers(network, storage, touched, c, target) for c in cascades}
    ends = {name: c.last for c, names in inner.items() for name in names}
    whole = {name: life for name, life in touched.items() if life.last > ends.get(name, -1)}
    resident: frozenset[str] | None = None
    for _ in range(min(target.cores, 2)):  # how cores divide layers, and what stays, depend on each other
        parts = divide(network, storage, target, BY_ROWS, alone, sending[0], resident)
        woven = tuple(woven_groups(network, storage, parts, apart))
        lives = widened(whole, [*(c.layers for c in inner), *woven])
        spans, sizes = _held(network, storage, parts, target)
        resident = choose_resident(network, sizes, lives, target, never, sending[1])
    assert resident is not None
    dense = storage
    storage = pitched(network, storage, target, resident.union(*inner.values()) - (lives.keys() - resident))
    if storage is not dense:
        spans, sizes = _held(network, storage, parts, target)
        resident = choose_resident(
            network, sizes, lives, target, never | (lives.keys() - resident), sending[1]
        )
    rolling = {c: names - resident for c, names in inner.items()}
    outside = place_in_dram(storage.buffer_bytes, lives, resident, steps[0])
    inside = (
        place_in_sram(sizes.buffer_bytes, lives, resident, target.sram_bytes, steps[1]) if steps[1] else {}
    )
    return Plan(
        network, target, storage, lives, resident, rolling, single, parts, spans, woven, *outside, inside
    )


def _held(
    network: Network, storage: Storage, parts: Mapping[int, Parts], target: Target
) -> tuple[Mapping[str, tuple[Range, ...]], Storage]:
    """What cores hold of buffers, and the storage with the bytes that each core sets aside for them."""
    if target.cores == 1:
        return {}, storage
    spans = held(network, storage, parts, target.cores)
    sizes = {**storage.buffer_bytes} | {name: held_bytes(of_cores) for name, of_cores in spans.items()}
    return spans, replace(storage, buffer_bytes=sizes)


def schedule(
    network: Network, target: Target, cascades: Iterable[Cascade] = (), sending: tuple[float, float] = SENDING[0],
    steps: tuple[int, int] = (0, 0),
) -> Scheduled:  # fmt: skip
    """Lower every NPU stage of the network, these layers in cascades where they fit.

    ``sending`` is one of SENDING. Addresses in DRAM and in SRAM are
    by a search of so many ``steps``, in a DRAM that is too small of as many as help; it may lack bytes then still.

    Raises:
        LayerDoesNotFit: a layer does not fit in the SRAM even alone.
    """
    storage = plan_storage(network)
    wanted, single = tuple(cascades), frozenset[int]()
    alone, apart = frozenset[int](), frozenset[int]()
    moved: dict[Cascade | None, frozenset[str]] = {}  # to DRAM, for cascades and for single layers
    while True:
        never = frozenset[str]().union(*moved.values())
        plan = make_plan(network, target, storage, wanted, never, single, alone, apart, sending, steps)
        try:
            made = lower(plan)
        except CascadeDoesNotFit as problem:
            around, unfit = stays_around(plan, problem.cascade), problem.cascade
            if around and not steps[1]:
                steps = (steps[0], EXACT)
            elif around:
                moved[unfit] = moved.get(unfit, frozenset()) | {around[-1]}
            else:
                wanted = tuple(c for c in wanted if c != unfit)
                moved.pop(unfit, None)  # in vain
        except LayerDoesNotFit as problem:
            at = problem.index
            if any(at == group[0] for group in plan.woven):
                apart |= {at}
                continue
            alive = [n for n in plan.resident if plan.lives[n].first <= at <= plan.lives[n].last]
            if alive and not steps[1]:
                steps = (steps[0], EXACT)
            elif alive:
                largest = max(alive, key=lambda n: (storage.buffer_bytes[n], n))
                moved[None] = moved.get(None, frozenset()) | {largest}
            elif at in plan.parts:
                alone |= {at}
            elif at not in single:
                single |= {at}
            else:
                raise
        else:
            more = [count for count in (FAST, EXACT) if count > steps[0]]
            if not made.lacking_bytes or not more:
                return made
            steps = (more[0], steps[1])


def stays_around(plan: Plan, cascade: Cascade) -> list[str]:
    """The buffers that lie in SRAM while a cascade runs, the largest last."""
    lives = plan.lives
    around = [n for n in plan.resident if lives[n].first <= cascade.last and cascade.first <= lives[n].last]
    return sorted(around, key=lambda name: (plan.storage.buffer_bytes[name], name))


def lower(plan: Plan, part: range | None = None) -> Scheduled:
    """Lower all layers, or only those of ``part`` as if the others were around them.

    Raises:
        CascadeDoesNotFit: a cascade needs more SRAM than is free.
        LayerDoesNotFit: so does a layer.
    """
    network, target = plan.network, plan.target
    low = Lowering(
        network=network,
        storage=plan.storage,
        target=target,
        resident=plan.resident,
        dram_address=plan.dram_address,
        sram_address=plan.sram_address,
        held=plan.held,
    )
    cascades = {cascade.first: cascade for cascade in plan.inner}
    woven = {group[0]: group for group in plan.woven}
    partitions: list[Partition] = []
    index = 0
    if part is None:
        for name in sorted(network.fed):
            low.place(name, 0, -1)
    else:
        for name in settled(plan, part.start):
            low.home(name)
    for stage in network.stages:
        if stage.cpu is not None:
            partitions += [stage.cpu] if part is None else []
            continue
        at, index = index, index + len(stage.layers)
        todo = range(at, index) if part is None else range(max(at, part.start), min(index, part.stop))
        if not todo:
            continue
        begin, at = len(low.emitter.layers), todo.start
        while at in todo:
            cascade = cascades.get(at)
            inner = plan.inner[cascade] if cascade else frozenset()
            homeless = frozenset(name for name in inner if name not in plan.lives)
            together = cascade.layers if cascade else woven.get(at, range(at, at + 1))
            group = [(i, network.layers[i]) for i in (together if together[-1] in todo else (at,))]
            if cascade:
                _lower_cascade(low, cascade, group, inner, homeless)
            elif len(group) > 1:
                _lower_woven(low, plan, group)
            else:
                low.buffers = 1 if at in plan.single else 2
                low.share(plan.parts.get(at))
                _lower_layer(low, *group[0])
            _end_group(low, plan, group, homeless, begin)
            at += len(group)
        low.emitter.layer = -1
        low.share(None)
        low.emitter.emit("end", {})
        made = network.layers[todo.start : todo.stop]
        partitions.append(_partition(network, made, begin, len(low.emitter.layers)))
    placed = _with_until(low, network) if part is None else ()
    return Scheduled(plan, low, placed, tuple(partitions))


def settled(plan: Plan, first: int) -> list[str]:
    """Of each buffer that lies in SRAM when layer ``first`` begins a tensor, in the order in which they get addresses."""
    there = [name for name in plan.resident if plan.lives[name].first < first <= plan.lives[name].last]
    return sorted(min(plan.storage.members[buffer]) for buffer in there)


def _lower_layer(low: Lowering, index: int, layer: Layer) -> None:
    low.emitter.layer = index
    try:
        for name in (*operands(layer), layer.output):
            low.home(name)
        if layer.name not in low.storage.free_layers:
            names = [name for name in (*operands(layer), layer.output) if not low.stays(name)]
            rows = [math.prod(low.network.tensors[n].shape[2:]) * low.kind(n).bytes for n in names]
            low.make_room(4 * sum(rows))
            if type(layer.operation) in BY_ROWS:
                emit_layer(low, BY_ROWS[type(layer.operation)](low, layer, None))
            else:
                LOWER[type(layer.operation)](low, layer)
            if low.parts is None:
                low.send_all(layer.output)
    except DoesNotFit as problem:
        raise _does_not_fit(low, index, layer, problem) from None


def _lower_woven(low: Lowering, plan: Plan, layers: Sequence[tuple[int, Layer]]) -> None:
    low.buffers = 2
    try:
        busy = [(i, layer) for i, layer in layers if layer.name not in low.storage.free_layers]
        for _, layer in busy:
            for name in (*operands(layer), layer.output):
                low.home(name)
        members = []
        for i, layer in busy:
            low.emitter.layer = i
            low.share(plan.parts[i])
            members.append(Member(i, layer, BY_ROWS[type(layer.operation)](low, layer, None), plan.parts[i]))
        emit_woven(low, members)
    except DoesNotFit as problem:
        raise _does_not_fit(low, *layers[0], problem) from None


def _does_not_fit(low: Lowering, index: int, layer: Layer, problem: DoesNotFit) -> LayerDoesNotFit:
    taken = low.target.sram_bytes - low.sram.free_bytes()
    return LayerDoesNotFit(index, layer, taken + problem.need_bytes)


def _lower_cascade(
    low: Lowering, cascade: Cascade, layers: Sequence[tuple[int, Layer]], inner: frozenset[str],
    homeless: frozenset[str],
) -> None:  # fmt: skip
    try:
        for _, layer in layers:
            for name in (*operands(layer), layer.output):
                if low.storage.spots[name].buffer not in homeless:
                    low.home(name)
        busy = [(i, layer) for i, layer in layers if layer.name not in low.storage.free_layers]
        lower_cascade(low, busy, inner, cascade.each)
    except DoesNotFit:
        raise CascadeDoesNotFit(cascade) from None


def _end_group(
    low: Lowering, plan: Plan, layers: Sequence[tuple[int, Layer]], homeless: frozenset[str], begin: int
) -> None:
    """Record the tensors that are complete, and give back those that nobody reads any more.

    A view that opens a partition is complete once the host has done what comes before the partition, whose first
    instruction is ``begin``.
    """
    for index, layer in layers:
        if low.storage.spots[layer.output].buffer not in homeless:
            low.place(layer.output, max(len(low.emitter.layers) - 1, begin), index)
        for buffer in plan.read_last.get(index, ()):
            if buffer in low.homes:
                low.everywhere.release(low.homes[buffer].address)


def _partition(network: Network, layers: tuple[Layer, ...], begin: int, end: int) -> Partition:
    made = {layer.output for layer in layers}
    read = {name for layer in layers for name in operands(layer)}
    return Partition(
        placement="npu",
        inputs=tuple(sorted(read & network.fed)),
        outputs=tuple(sorted(made & network.kept)),
        begin=begin,
        end=end,
        nodes=tuple(node for layer in layers for node in layer.nodes),
    )


def _with_until(low: Lowering, network: Network) -> tuple[Placed, ...]:
    """The placed tensors with the index of the instruction before which each may still be read."""
    layers = network.layers
    last_instruction: dict[int, int] = {layer: i for i, layer in enumerate(low.emitter.layers)}
    last_read: dict[str, int] = {}
    for i, layer in enumerate(layers):
        for name in operands(layer):
            last_read[name] = max(last_read.get(name, 0), last_instruction.get(i, 0))
    everything = len(low.emitter.layers)
    return tuple(
        replace(
            placed,
            until=everything
            if placed.tensor.name in network.kept
            else max(last_read.get(placed.tensor.name, 0), placed.ready) + 1,
        )
        for placed in low.placed
    )
