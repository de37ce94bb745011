"""What does not fit is refused: with need, have, who is alive where it is tightest, and the least change that fits."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from ommatid.compiler.errors import CompileError
from ommatid.compiler.layers import Layer, Network
from ommatid.compiler.memory import alive_at_peak, boxes_of
from ommatid.compiler.schedule import LayerDoesNotFit, Scheduled, lower, make_plan, schedule
from ommatid.compiler.storage import operands, plan_storage
from ommatid.isa.target import Target, most

#: Buffers that a message names.
NAMED = 5


def lacks_sram(network: Network, target: Target, problem: LayerDoesNotFit) -> CompileError:
    """The error for a layer that does not fit in the SRAM even alone."""
    layer = problem.layer
    return CompileError(
        f"layer {layer.name!r} ({layer.op}) needs at least {problem.need_bytes:,} bytes of SRAM, target {target.name} "
        f"has {target.sram_bytes:,}; alive there, the smallest possible part of each: {_listed(_touched(network, layer))}",
        hint=_hint("sram_kib", smallest_sram_kib(network, target)),
        node=layer.nodes[0] if layer.nodes else layer.name,
    )


def _touched(network: Network, layer: Layer) -> dict[str, int]:
    """Bytes of what a layer works on: tensors, and its own constants together."""
    tensors = [network.tensors[name] for name in (*operands(layer), layer.output)]
    sizes = {tensor.name: math.prod(tensor.shape) * tensor.quantization.kind.bytes for tensor in tensors}
    values = [getattr(layer.operation, field.name) for field in dataclasses.fields(layer.operation)]
    constants = sum(value.nbytes for value in values if isinstance(value, np.ndarray))
    return sizes | ({"its constants": constants} if constants else {})


def lacks_dram(made: Scheduled) -> CompileError:
    """The error for a program that does not fit in the DRAM."""
    plan, target = made.plan, made.plan.target
    boxes = boxes_of(plan.storage.buffer_bytes, plan.lives, plan.lives.keys() - plan.resident)
    alive = {box.name: box.size for box in alive_at_peak(boxes)}
    mib = -(-made.dram_bytes >> 20)
    return CompileError(
        f"the program needs {made.dram_bytes:,} bytes of DRAM, target {target.name} has {target.dram_bytes:,}: "
        f"{made.dram_bytes - plan.activation_bytes:,} for constants and instructions, and at the peak {_listed(alive)}",
        hint=_hint("dram_mib", mib if mib <= most("dram_mib") else None),
    )


def _listed(sizes: Mapping[str, int]) -> str:
    """Names with bytes, the largest first."""
    ordered = sorted(sizes.items(), key=lambda pair: (-pair[1], pair[0]))
    parts = [f"{name} ({size:,} bytes)" for name, size in ordered[:NAMED]]
    rest = ordered[NAMED:]
    if rest:
        parts.append(f"{len(rest)} more ({sum(size for _, size in rest):,} bytes)")
    return ", ".join(parts)


def _hint(field: str, least: int | None) -> str:
    if least is None:
        return (
            f"no target can have as much ({field} is at most {most(field):,}): use a smaller input (--shape)"
        )
    return f"it fits from {field} = {least} on; or use a smaller input (--shape)"


def smallest_sram_kib(network: Network, target: Target) -> int | None:
    """The least SRAM with which the network fits, KiB, found by trial; None if no target can have so much."""
    kib: int | None = target.sram_kib
    while kib is not None:
        try:
            schedule(network, dataclasses.replace(target, sram_kib=kib))
            break
        except LayerDoesNotFit as problem:
            kib = _smallest_for(network, target, problem.index, kib)
    return kib


def _smallest_for(network: Network, target: Target, index: int, kib: int) -> int | None:
    """The least SRAM above ``kib`` in which one layer fits when nothing else is there, KiB."""
    storage = plan_storage(network)

    def fits(kib: int) -> bool:
        chip = dataclasses.replace(target, sram_kib=kib)
        plan = make_plan(
            network,
            chip,
            storage,
            never=frozenset(storage.buffer_bytes),
            single=frozenset({index}),
            alone=frozenset({index}),
        )
        try:
            lower(plan, range(index, index + 1))
        except LayerDoesNotFit:
            return False
        return True

    larger = range(kib + 1, most("sram_kib") + 1)
    at = bisect.bisect_left(larger, True, key=fits)
    return larger[at] if at < len(larger) else None
