"""A convolution in pieces: phases of a transposed one, blocks of output channels, weights in order of use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ommatid.compiler.layers import Conv
from ommatid.isa.target import Target
from ommatid.isa.weights import pack_weights

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Phase:
    """One plain convolution: ``weights`` int8 [cout, kh, kw, cin]; its output pixel (i, j) is pixel
    (row + i * up[0], column + j * up[1]) of the layer's output."""

    weights: Array
    pad_top: int
    pad_left: int
    row: int
    column: int


@dataclass(frozen=True)
class Call:
    """One ``conv`` or ``dwconv`` of a block: output channels ``low`` to ``high``, input channels from ``source``."""

    low: int
    high: int
    source: int


@dataclass(frozen=True)
class Block:
    """Output channels ``low`` to ``high``, computed into one half of the accumulators."""

    low: int
    high: int
    calls: tuple[Call, ...]


def phases_of(conv: Conv) -> tuple[Phase, ...]:
    """The plain convolutions that a convolution is made of (one, unless transposed)."""
    top, left = conv.window.pads[:2]
    if conv.upsample == (1, 1):
        return (Phase(conv.weights, top, left, 0, 0),)
    phases = []
    for a in range(conv.upsample[0]):
        for b in range(conv.upsample[1]):
            taps_h, pad_top = _phase(conv.weights, 1, a, conv.upsample[0], top)
            taps, pad_left = _phase(taps_h, 2, b, conv.upsample[1], left)
            phases.append(Phase(np.ascontiguousarray(taps), pad_top, pad_left, a, b))
    return tuple(phases)


def _phase(weights: Array, axis: int, phase: int, up: int, pad: int) -> tuple[Array, int]:
    """The taps that meet input pixels in this phase, and the padding before the first; one zero tap if none."""
    first = (pad - phase) % up
    taps = weights[(slice(None),) * axis + (slice(first, None, up),)]
    if taps.shape[axis] == 0:
        taps = np.zeros_like(weights[(slice(None),) * axis + (slice(0, 1),)])
    return taps, (pad - phase - first) // up


def weight_unit(
    conv: Conv, phases: tuple[Phase, ...], depthwise: bool, row_mode: bool, target: Target
) -> tuple[int, int, int]:
    """Packed bytes of one unit of output channels, weight tiles along K for 16 of them, channels of a unit."""
    if depthwise:
        unit = min(target.mx_k_bytes, conv.groups)
        return unit * sum(p.weights.shape[1] * p.weights.shape[2] for p in phases), 0, unit
    lanes, k = target.mx_channels, target.mx_k_bytes
    steps = 0
    for phase in phases:
        _, kh, kw, cin = phase.weights.shape
        steps += kh * (-(-kw * cin // k) if row_mode else kw * -(-cin // k))
    group_channels = conv.weights.shape[0] // conv.groups
    if conv.groups > 1 and group_channels < lanes:
        per_unit = max(1, lanes // group_channels)
        return per_unit * steps * k * lanes, steps * per_unit, group_channels * per_unit
    unit = lanes if conv.groups == 1 else _divisor(group_channels, lanes)
    return steps * k * lanes * -(-unit // lanes), steps * -(-unit // lanes) * lanes // max(unit, 1), unit


def _divisor(channels: int, lanes: int) -> int:
    """A block size for groups: as many lanes as divide a group's channels evenly, or the whole group."""
    return next((m for m in range(lanes, 4 * lanes + 1, lanes) if channels % m == 0), channels)


def is_pointwise(conv: Conv, phases: tuple[Phase, ...]) -> bool:
    """A pointwise convolution: its pixels need not keep rows apart."""
    return (
        conv.upsample == (1, 1)
        and phases[0].weights.shape[1:3] == (1, 1)
        and conv.window.strides == (1, 1)
        and conv.window.pads == (0, 0, 0, 0)
    )


def blocks_of(
    conv: Conv, depthwise: bool, size: int, within: Sequence[tuple[int, int]] | None = None
) -> tuple[Block, ...]:
    """Blocks of at most ``size`` channels (or of a group); of one group none goes beyond one of the ranges ``within``."""
    cout, groups = conv.weights.shape[0], conv.groups
    if depthwise or groups == 1:
        ranges = [
            (a, min(a + size, high)) for low, high in within or [(0, cout)] for a in range(low, high, size)
        ]
        return tuple(Block(a, b, (Call(a, b, a if depthwise else 0),)) for a, b in ranges)
    per_group, cin = cout // groups, conv.weights.shape[3]
    calls = [
        Call(g * per_group + a, g * per_group + min(a + size, per_group), g * cin)
        for g in range(groups)
        for a in range(0, per_group, size)
    ]
    blocks: list[Block] = []
    for call in calls:
        if blocks and call.high - blocks[-1].low <= size:
            last = blocks.pop()
            blocks.append(Block(last.low, call.high, (*last.calls, call)))
        else:
            blocks.append(Block(call.low, call.high, (call,)))
    return tuple(blocks)


def runs_of(conv: Conv, block: Block) -> list[tuple[int, int, int]]:
    """The channels of a block in runs (first, after the last, channel of the output that the first becomes)."""
    if not conv.runs:
        return [(block.low, block.high, block.low)]
    cut = [(max(low, block.low), min(high, block.high), at - low) for low, high, at in conv.runs]
    return [(low, high, low + shift) for low, high, shift in cut if low < high]


def weight_blob(
    conv: Conv,
    phases: tuple[Phase, ...],
    blocks: tuple[Block, ...],
    depthwise: bool,
    row_mode: bool,
    target: Target,
) -> tuple[bytes, tuple[tuple[tuple[int, ...], ...], ...]]:
    """All weights in the order of their use, and the offset of each block's, phase's and call's."""
    if len(phases) == conv.groups == 1 and not depthwise:
        whole, lanes = _packed(conv, row_mode, target), target.mx_channels
        group = len(whole) // -(-conv.weights.shape[0] // lanes)
        return whole, tuple(((block.low // lanes * group,),) for block in blocks)
    parts: list[Array] = []
    offsets: list[tuple[tuple[int, ...], ...]] = []
    at = 0
    for block in blocks:
        of_block = []
        for phase in phases:
            of_phase = []
            for call in block.calls:
                weights = phase.weights[call.low : call.high]
                if depthwise:
                    packed = np.ascontiguousarray(weights[..., 0].transpose(1, 2, 0)).view(np.uint8).ravel()
                    packed = np.concatenate([packed, np.zeros(-len(packed) % 16, np.uint8)])
                else:
                    packed = pack_weights(weights, row_mode, target)
                parts.append(packed)
                of_phase.append(at)
                at += len(packed)
            of_block.append(tuple(of_phase))
        offsets.append(tuple(of_block))
    return np.concatenate(parts).tobytes(), tuple(offsets)


#: By convolution its packed weights: a search lowers a layer for each of its trials.
_PACKED: WeakKeyDictionary[Conv, dict[Any, bytes]] = WeakKeyDictionary()


def _packed(conv: Conv, row_mode: bool, target: Target) -> bytes:
    """All weights of one group, of blocks of whole groups of lanes, however large these are."""
    known, key = _PACKED.setdefault(conv, {}), (row_mode, target.mx_k_bytes, target.mx_channels)
    if key not in known:
        known[key] = pack_weights(conv.weights, row_mode, target).tobytes()
    return known[key]
