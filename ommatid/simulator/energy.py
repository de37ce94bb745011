"""Energy of a run by level, and the area of a chip, from the tables of the target (45 nm in the presets).

Both are sums of published costs of parts, good for comparing programs and chips; no silicon was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ommatid.isa.cost import cost_cycles, dram_bytes, macs, passes
from ommatid.isa.footprint import WORD_BYTES
from ommatid.isa.instructions import BY_MNEMONIC, INSTRUCTION_BYTES, INSTRUCTIONS, Engine, Memory, view
from ommatid.isa.operands import conv_steps
from ommatid.isa.target import Target
from ommatid.simulator.words import bank_words, vx_elements

Array = np.ndarray[Any, Any]

LEVELS = ("mac", "vx", "acc", "sram", "dram")


def energy_pj(stream: Array, target: Target) -> Array:
    """Energy of each instruction by LEVELS (float64 [instruction, level], pJ), its own fetch included in dram."""
    words, *_ = bank_words(stream, cost_cycles(stream, target), target)
    table = np.zeros((len(stream), len(LEVELS)))
    table[:, 0] = multiplications(stream, target) * target.energy_mac_pj
    table[:, 1] = vx_elements(stream, target) * target.energy_vx_pj_per_element
    table[:, 2] = acc_bytes(stream, target) * target.energy_acc_pj_per_byte
    table[:, 3] = words * WORD_BYTES * target.energy_sram_pj_per_byte
    table[:, 4] = (dram_bytes(stream, target) + INSTRUCTION_BYTES) * target.energy_dram_pj_per_byte
    return table


def multiplications(stream: Array, target: Target) -> Array:
    """Multiplications of 8 by 8 bits of each instruction (int64)."""
    total = macs(stream, target)
    for mnemonic in ("conv", "dwconv"):
        where = np.flatnonzero(stream["opcode"] == BY_MNEMONIC[mnemonic].opcode)
        total[where] *= passes(view(stream, mnemonic)[where])
    return total


def acc_bytes(stream: Array, target: Target) -> Array:
    """Bytes of accumulators that each instruction reads and writes (int64).

    The array reads and writes an accumulator once a step, whatever its passes; the other engines touch theirs once.
    """
    total = np.zeros(len(stream), np.int64)
    for row in INSTRUCTIONS:
        where = np.flatnonzero(stream["opcode"] == row.opcode)
        records = view(stream, row.mnemonic)[where]
        for operand in (o for o in row.operands if o.memory == Memory.ACC):
            run, loops = operand.extent(records, target)
            for count, _ in loops:
                run = run * count
            steps = conv_steps(records, target) if row.mnemonic == "conv" else 1
            if row.mnemonic == "dwconv":
                steps = records["kh"].astype(np.int64) * records["kw"]
            total[where] += run * steps * (2 if row.engine == Engine.MX else 1)
    return total


def static_pj(cycles: int, target: Target) -> float:
    """What the chip takes in so many cycles whatever it does."""
    return target.static_mw * 1e6 * cycles / target.clock_mhz / 1e3


@dataclass(frozen=True)
class Area:
    """A chip's area in mm2: of all cores' MACs (depthwise included), memories and ports."""

    mac_mm2: float
    memory_mm2: float
    port_mm2: float

    @property
    def total_mm2(self) -> float:
        """All of it."""
        return self.mac_mm2 + self.memory_mm2 + self.port_mm2


def area(target: Target) -> Area:
    """The area of a target; nothing but MACs, memories and ports is counted."""
    ports = sum(
        (
            target.port_mx_activation_bytes_per_cycle, target.port_mx_weight_bytes_per_cycle,
            target.port_vx_read_bytes_per_cycle, target.port_vx_write_bytes_per_cycle,
            target.port_load_bytes_per_cycle, target.port_store_bytes_per_cycle,
        )
    )  # fmt: skip
    units = target.macs_per_cycle + target.depthwise_macs_per_cycle + target.vx_elements_per_cycle
    memory = target.sram_bytes + target.accumulator_bytes
    return Area(
        target.cores * units * target.area_mac_um2 / 1e6,
        target.cores * memory * target.area_memory_um2_per_byte / 1e6,
        target.cores * ports * target.area_port_um2_per_byte / 1e6,
    )
