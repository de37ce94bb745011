"""A schedule as a program: all of it, or only what a search judges it by."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ommatid.compiler.bounds import layer_roofline_cycles, lower_bound_cycles
from ommatid.compiler.layers import Conv, Layer, Network
from ommatid.compiler.origins import fates
from ommatid.compiler.schedule import Scheduled
from ommatid.compiler.storage import operands
from ommatid.compiler.tokens import add_tokens
from ommatid.isa.instructions import BY_MNEMONIC
from ommatid.isa.program import Layer as ProgramLayer
from ommatid.isa.program import Placed, Program, empty_program


def assemble_program(
    scheduled: Scheduled, info: dict[str, Any] | None = None, bare: Program | None = None
) -> Program:
    """The program of a scheduled network, with tokens; ``bare`` is its bare program, if that is there."""
    network, target = scheduled.plan.network, scheduled.plan.target
    bare = bare or bare_program(scheduled)
    layers = network.layers
    compulsory = compulsory_bytes(network, layers)
    rows = tuple(
        ProgramLayer(layer.name, layer.op, layer.nodes, layer.macs, roofline)
        for layer, roofline in zip(layers, rooflines(scheduled), strict=True)
    )
    everything = sum(compulsory)
    host = [name for p in scheduled.partitions if p.placement == "cpu" for name in p.nodes]
    return dataclasses.replace(
        bare,
        layers=rows,
        placed=tuple(_relocated(placed, bare.symbols) for placed in scheduled.placed),
        inputs=network.inputs,
        outputs=network.outputs,
        lower_bound_cycles=lower_bound_cycles(layers, network.tensors, everything, target),
        roofline_cycles=float(sum(row.roofline_cycles for row in rows)),
        compulsory_dram_bytes=everything,
        metadata=dict(network.metadata),
        nodes=fates(network.sources, [(row.name, row.nodes) for row in rows], host),
        info=(info or {}) | {"sram_peak_bytes": max(sram.peak_bytes for sram in scheduled.lowering.srams)},
    )


def bare_program(scheduled: Scheduled) -> Program:
    """The instructions of a schedule, with tokens, and their operands: all that takes time, and nothing that describes
    the network, which takes longer than to lower a few layers of it."""
    target = scheduled.plan.target
    made = scheduled.lowering.emitter.finish()
    add_tokens(made.stream, target, made.dram_base)
    return dataclasses.replace(
        empty_program(target),
        instructions=made.stream,
        operands=made.operands,
        layer_of=made.layer_of,
        constants=made.constants,
        symbols=made.symbols,
        partitions=scheduled.partitions,
        dram_bytes=scheduled.dram_bytes,
    )


def excerpt(program: Program, layers: range) -> Program:
    """The instructions of some layers of a bare program, as if they were alone."""
    opcodes, layer_of = program.instructions["opcode"], program.layer_of
    mine = (layer_of >= layers.start) & (layer_of < layers.stop)
    ends = opcodes == BY_MNEMONIC["end"].opcode
    first, last = (int(at) for at in np.flatnonzero(mine)[[0, -1]]) if mine.any() else (0, -1)
    behind = int(np.flatnonzero(ends[last + 1 :])[0]) + last + 1  # the end of their partition
    mine[first : behind + 1] |= ends[first : behind + 1]
    stream = program.instructions[mine]
    stream["wait"] = stream["signal"] = 0
    add_tokens(stream, program.target, len(program.constants))
    return dataclasses.replace(
        program, instructions=stream, operands=program.operands[mine], layer_of=layer_of[mine]
    )


def rooflines(scheduled: Scheduled) -> list[float]:
    """Each layer's term of ``roofline_cycles``."""
    network, target = scheduled.plan.network, scheduled.plan.target
    layers = network.layers
    return [
        layer_roofline_cycles(layer, network.tensors, size, target)
        for layer, size in zip(layers, compulsory_bytes(network, layers), strict=True)
    ]


def compulsory_bytes(network: Network, layers: Sequence[Layer]) -> list[int]:
    """Of each layer: its constants as the network stores them, network inputs it is the first to read, and
    network outputs it writes (bytes). A layer that is made again has none of its own."""
    unread = set(network.fed) | set(network.constants)
    seen: set[int] = set()
    sizes = []
    for layer in layers:
        size = 0
        if isinstance(layer.operation, Conv) and id(layer.operation) not in seen:
            conv = layer.operation
            seen.add(id(conv))
            size += conv.weights.nbytes + conv.bias.nbytes + conv.multipliers.nbytes
        touched = (unread & set(operands(layer))) | ({layer.output} & network.kept)
        unread -= touched
        tensors = [network.tensors[name] for name in touched]
        size += sum(int(np.prod(tensor.shape)) * tensor.quantization.kind.bytes for tensor in tensors)
        sizes.append(size)
    return sizes


def _relocated(placed: Placed, symbols: np.ndarray[Any, Any]) -> Placed:
    """A placed tensor's address in the final program: offsets inside its symbol stay."""
    return dataclasses.replace(placed, address=placed.address + int(symbols["address"][placed.symbol]))
