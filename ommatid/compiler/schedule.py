"""The schedule: layers in order, each lowered with what memory planning decided; then tokens.

Where a layer does not fit beside the tensors that stay in SRAM, the largest of them moves to DRAM and the
schedule is made again: lowering is quick, and every later decision then sees the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from ommatid.compiler.errors import CompileError
from ommatid.compiler.layers import (
    Concat,
    Conv,
    Layer,
    Lrn,
    Map,
    MatMul,
    Mean,
    Network,
    Norm,
    Pad,
    Pool,
    Resize,
    Slice,
    Softmax,
    TopK,
    Transpose,
    View,
)
from ommatid.compiler.lower import Lowering
from ommatid.compiler.lower_conv import lower_conv
from ommatid.compiler.lower_matmul import lower_matmul
from ommatid.compiler.lower_shape import lower_concat, lower_pad, lower_slice, lower_transpose, lower_view
from ommatid.compiler.lower_topk import lower_topk
from ommatid.compiler.lower_vector import (
    lower_lrn,
    lower_map,
    lower_mean,
    lower_norm,
    lower_pool,
    lower_resize,
    lower_softmax,
)
from ommatid.compiler.memory import Lifetime, choose_resident, lifetimes, place_in_dram
from ommatid.compiler.sram import DoesNotFit
from ommatid.compiler.storage import Storage, operands, plan_storage
from ommatid.isa.program import Partition, Placed
from ommatid.isa.target import Target

LOWER: dict[type, Callable[[Lowering, Layer], None]] = {
    Conv: lower_conv,
    MatMul: lower_matmul,
    Map: lower_map,
    Pool: lower_pool,
    Mean: lower_mean,
    Resize: lower_resize,
    Softmax: lower_softmax,
    Lrn: lower_lrn,
    Norm: lower_norm,
    TopK: lower_topk,
    Concat: lower_concat,
    Slice: lower_slice,
    Pad: lower_pad,
    Transpose: lower_transpose,
    View: lower_view,
}


@dataclass(frozen=True)
class Scheduled:
    """A lowered network: the emitter's state, what lies where, partitions, DRAM bytes of activations."""

    lowering: Lowering
    placed: tuple[Placed, ...]
    partitions: tuple[Partition, ...]
    activation_bytes: int


class _LayerDoesNotFit(Exception):
    def __init__(self, index: int, layer: Layer, need_bytes: int) -> None:
        super().__init__(layer.name)
        self.index, self.layer, self.need_bytes = index, layer, need_bytes


def schedule(network: Network, target: Target) -> Scheduled:
    """Lower every NPU stage of the network.

    Raises:
        CompileError: a layer does not fit in the SRAM even alone, or activations not in the DRAM.
    """
    storage = plan_storage(network)
    lives = lifetimes(network, storage)
    never: frozenset[str] = frozenset()
    single: frozenset[int] = frozenset()  # layers that load nothing ahead: they would not fit
    while True:
        resident = choose_resident(network, storage, lives, target, never)
        try:
            return _lower_all(network, storage, lives, resident, target, single)
        except _LayerDoesNotFit as problem:
            at = problem.index
            alive = [n for n in resident if lives[n].first <= at <= lives[n].last]
            if alive:
                never |= {max(alive, key=lambda n: (storage.buffer_bytes[n], n))}
            elif at not in single:
                single |= {at}
            else:
                raise CompileError(
                    f"layer {problem.layer.name!r} ({problem.layer.op}) needs {problem.need_bytes} bytes of SRAM "
                    f"for its smallest tile; target {target.name} has {target.sram_bytes}",
                    hint="use a target with more SRAM, or a smaller input (--shape)",
                    node=problem.layer.nodes[0] if problem.layer.nodes else problem.layer.name,
                ) from None


def _lower_all(
    network: Network, storage: Storage, lives: dict[str, Lifetime], resident: frozenset[str], target: Target,
    single: frozenset[int],
) -> Scheduled:  # fmt: skip
    try:
        addresses, activation_bytes = place_in_dram(storage, lives, resident, target.dram_bytes)
    except DoesNotFit as problem:
        raise CompileError(
            f"activations need more than the {target.dram_mib} MiB of DRAM of target {target.name} "
            f"({problem.need_bytes} bytes for one of them)",
            hint="use a target with more DRAM, or a smaller input (--shape)",
        ) from None
    low = Lowering(network, storage, target, resident, addresses)
    partitions: list[Partition] = []
    index = 0
    for name in sorted(network.fed):
        low.place(name, 0, -1)
    for stage in network.stages:
        if stage.cpu is not None:
            partitions.append(stage.cpu)
            continue
        begin = len(low.emitter.rows)
        for layer in stage.layers:
            low.buffers = 1 if index in single else 2
            _lower_layer(low, lives, index, layer, begin)
            index += 1
        low.emitter.layer = -1
        low.emitter.emit("end", {})
        partitions.append(_partition(network, stage.layers, begin, len(low.emitter.rows)))
    return Scheduled(low, _with_until(low, network), tuple(partitions), activation_bytes)


def _lower_layer(low: Lowering, lives: dict[str, Lifetime], index: int, layer: Layer, begin: int) -> None:
    """Lower a layer of the partition whose first instruction is ``begin``."""
    low.emitter.layer = index
    try:
        for name in (*operands(layer), layer.output):
            low.home(name)
        if layer.name not in low.storage.free_layers:
            names = [name for name in (*operands(layer), layer.output) if not low.stays(name)]
            rows = [math.prod(low.network.tensors[n].shape[2:]) * low.kind(n).bytes for n in names]
            low.make_room(4 * sum(rows))
            LOWER[type(layer.operation)](low, layer)
    except DoesNotFit as problem:
        raise _LayerDoesNotFit(index, layer, problem.need_bytes) from None
    # A view that opens a partition is complete once the host has done what comes before the partition.
    low.place(layer.output, max(len(low.emitter.rows) - 1, begin), index)
    for buffer, home in low.homes.items():
        if buffer in low.resident and lives[buffer].last == index:
            low.sram.release(home.address)


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
    layers = [layer for stage in network.stages for layer in stage.layers]
    last_instruction: dict[int, int] = {row[3]: i for i, row in enumerate(low.emitter.rows)}
    last_read: dict[str, int] = {}
    for i, layer in enumerate(layers):
        for name in operands(layer):
            last_read[name] = max(last_read.get(name, 0), last_instruction.get(i, 0))
    everything = len(low.emitter.rows)
    return tuple(
        replace(
            placed,
            until=everything
            if placed.tensor.name in network.kept
            else max(last_read.get(placed.tensor.name, 0), placed.ready) + 1,
        )
        for placed in low.placed
    )
