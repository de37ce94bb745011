"""What a baseline holds of a program: figures, hashes of its outputs, and of each layer what it does and gives."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import Any

import numpy as np

from ommatid.isa.instructions import BY_OPCODE, Memory, view
from ommatid.isa.program import Placed, Port, Program
from ommatid.profiler.profile import IDLE, profile
from ommatid.profiler.table import table
from ommatid.runtime.host import CpuPartition
from ommatid.runtime.session import TYPES, InferenceSession, execute, placed_by_name
from ommatid.simulator.functional import Machine

Array = np.ndarray[Any, Any]


def feeds_for(program: Program, seed: int = 0) -> dict[str, Array]:
    """The same random inputs on every machine: around zero, integers from the range of a byte."""
    generator = np.random.default_rng(seed)
    return {port.name: _random(generator, port) for port in program.inputs}


def _random(generator: Any, port: Port) -> Array:
    kind = np.dtype(TYPES[port.dtype])
    if kind.kind == "f":
        return generator.standard_normal(port.shape).astype(kind)
    low = -128 if kind == np.int8 else 0
    return generator.integers(low, low + 2 if kind == np.bool_ else low + 256, port.shape).astype(kind)


def measure(program: Program, feeds: dict[str, Array] | None = None) -> dict[str, Any]:
    """``figures``, ``outputs`` (name: SHA-256) and ``layers`` (rows) of a program, as plain data.

    A row has ``name nodes``, the figures, ``code`` (a hash of its instructions, addresses and tokens aside, and of the
    constants that they read) and ``output`` (a hash of what it leaves in memory, empty if nothing).
    """
    feeds = feeds or feeds_for(program)
    result = profile(program)
    keys = ("name", "nodes", "cycles", "instructions", "dram_bytes", "sram_peak_bytes", "energy_uj")
    codes, outputs = layer_codes(program), layer_outputs(program, feeds)
    rows = [{key: row[key] for key in keys} for row in table(result)]
    for i, row in enumerate(rows):
        row["energy_uj"] = round(row["energy_uj"], 3)
        row["code"], row["output"] = codes.get(i, ""), outputs.get(i, "")
    session = InferenceSession(program)
    hashes = {
        port.name: _sha256(np.ascontiguousarray(array))
        for port, array in zip(program.outputs, session.run(None, feeds), strict=True)
    }
    figures = {
        "cpu_nodes": sum(len(p.nodes) for p in program.partitions if p.placement == "cpu"),
        "cycles": result.cycles,
        "instructions": len(program.instructions),
        "dram_bytes": sum(row["dram_bytes"] for row in rows),
        "sram_peak_bytes": max(row["sram_peak_bytes"] for row in rows),
        "energy_uj": round(sum(result.energy_uj.values()), 3),
    }
    return {"figures": figures, "outputs": hashes, "layers": [r for r in rows if r["name"] != IDLE]}


def _sha256(array: Array) -> str:
    return hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).hexdigest()


def layer_codes(program: Program) -> dict[int, str]:
    """For each layer a hash of its instructions and constants, that does not depend on where things lie."""
    digests: dict[int, Any] = defaultdict(hashlib.sha256)
    plain = program.instructions.copy()
    for opcode in np.unique(plain["opcode"]).tolist():
        row, mine = BY_OPCODE[opcode], np.flatnonzero(plain["opcode"] == opcode)
        for field in ("wait", "signal", *(operand.field for operand in row.operands)):
            view(plain, row.mnemonic)[field][mine] = 0
    for i, layer in enumerate(program.layer_of.tolist()):
        digests[layer].update(plain[i].tobytes())
    symbols = program.symbols
    for layer in np.unique(program.layer_of).tolist():
        named = np.unique(program.operands[program.layer_of == layer])
        for symbol in named[named >= 0]:
            begin, size = int(symbols["address"][symbol]), int(symbols["bytes"][symbol])
            if symbols["memory"][symbol] == Memory.DRAM and begin + size <= len(program.constants):
                digests[layer].update(program.constants[begin : begin + size].tobytes())
    return {layer: digest.hexdigest()[:12] for layer, digest in digests.items()}


def layer_outputs(program: Program, feeds: dict[str, Array]) -> dict[int, str]:
    """For each layer a hash of the tensors that it leaves in memory and what their codes mean, when these are whole."""
    machine, digests = Machine(program), defaultdict[int, Any](hashlib.sha256)

    def note(m: Machine, placed: Placed) -> None:
        digests[placed.layer].update(f"{placed.tensor.quantization}".encode())
        digests[placed.layer].update(np.ascontiguousarray(m.read(placed)).tobytes())

    cpu = {i: CpuPartition(p) for i, p in enumerate(program.partitions) if p.placement == "cpu"}
    execute(program, machine, placed_by_name(program), dict(feeds), cpu, on_ready=note)
    return {layer: digest.hexdigest()[:12] for layer, digest in digests.items()}
