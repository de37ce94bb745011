"""What follows in the same pass of the vector engine: a layer's steps as the slots of a ``map`` instruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ommatid.compiler import tables
from ommatid.compiler.layers import Binary, Layer, Step
from ommatid.compiler.lower import Lowering, Region
from ommatid.isa.elements import NUMBER

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Chain:
    """Steps sorted into the slots of a ``map`` instruction."""

    table1: Array | None = None
    binary: Binary | None = None
    table2: Array | None = None


def chain_of(steps: Sequence[Step]) -> Chain:
    """The slots that steps take: [Table] [Binary] [Table].

    Raises:
        ValueError: they do not fit.
    """
    slots: dict[str, Any] = {}
    for step in steps:
        if isinstance(step, Binary):
            if "binary" in slots or "table2" in slots:
                raise ValueError("two binary steps in one pass")
            slots["binary"] = step
        else:
            name = "table2" if "binary" in slots else "table1"
            if name in slots:
                raise ValueError("two tables in a row")
            slots[name] = step.values
    return Chain(**slots)


def fits_chain(steps: Sequence[Step]) -> bool:
    """Whether steps fit one pass of the vector engine."""
    try:
        chain_of(steps)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class ChainConstants:
    """Where a layer's parameters (and its tables, behind them) lie in SRAM; fields and symbols that are the same in all
    instructions of the chain."""

    address: int
    symbol: int
    fields: Mapping[str, Any]
    symbols: Mapping[str, int]


def load_chain(low: Lowering, layer: Layer, parameters: Array | None = None) -> tuple[Chain, ChainConstants]:
    """Load a layer's parameter block (uint8, may be None) and tables as one."""
    chain = chain_of(layer.steps)
    parts = [parameters.view(np.uint8).ravel() if parameters is not None else np.zeros(0, np.uint8)]
    fields = binary_fields(chain.binary) if chain.binary is not None else {}
    offsets: dict[str, int] = {}
    for name, table in (("table1", chain.table1), ("table2", chain.table2)):
        if table is not None:
            fields[f"{name}_on"] = tables.number(table)
            offsets[name] = sum(len(p) for p in parts)
            parts.append(table.view(np.uint8))
    blob = np.concatenate(parts)
    if not len(blob):
        return chain, ChainConstants(0, -1, fields, {})
    address, symbol = low.load_constant(blob)
    fields |= {name: address + offset for name, offset in offsets.items()}
    return chain, ChainConstants(address, symbol, fields, dict.fromkeys(offsets, symbol))


#: The fields of ``chain_operand``.
OPERAND = ("operand", "operand_row", "operand_pixel", "operand_c")


def chain_operand(
    operand: Region | None, shape: tuple[int, ...] | None, at: tuple[int, int, int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The values of OPERAND and the symbol of the second operand of a ``map``, if it has one; ``at`` is (row, column,
    channel) of its first element, ``shape`` the operand's (n, h, w, c)."""
    if operand is None or shape is None:
        return (), ()
    _, h, w, c = shape
    address = operand.at(at[0] if h > 1 else 0, at[1] if w > 1 else 0, at[2] if c > 1 else 0)
    steps = operand.row if h > 1 else 0, operand.pixel if w > 1 else 0
    return (address, *steps, int(c > 1)), (operand.symbol,)


def chain_fields(
    constants: ChainConstants, operand: Region | None, shape: tuple[int, ...] | None, at: tuple[int, int, int]
) -> tuple[dict[str, Any], dict[str, int]]:
    """The fields and symbols of a ``map`` that steps 2 to 4 need."""
    fields, symbols = {**constants.fields}, {**constants.symbols}
    values, others = chain_operand(operand, shape, at)
    if values:
        fields |= zip(OPERAND, values, strict=True)
        symbols["operand"] = others[0]
    return fields, symbols


def binary_fields(step: Binary) -> dict[str, Any]:
    """Step 3's numbers."""
    fields: dict[str, Any] = {"binary": {"add": 1, "mul": 2}[step.kind]}
    for name, (zero, dtype) in (("a", step.a), ("b", step.b), ("r", step.r)):
        fields |= {f"{name}_zero": zero, f"{name}_type": NUMBER[dtype]}
    return fields | {"a_factor": step.a_factor, "b_factor": step.b_factor, "addend": step.addend}


def bring_operand(low: Lowering, chain: Chain, image: int, first: int, rows: int) -> Region | None:
    """The rows of the second operand that stand beside rows ``first`` .. ``first + rows`` of the output, of the channels
    that the core makes."""
    if chain.binary is None:
        return None
    n, h, _, c = low.shape(chain.binary.other)
    begin, end = low.parts[low.cores[0]].channels if low.parts and c > 1 else (0, c)
    span = (image if n > 1 else 0, first if h > 1 else 0, rows if h > 1 else 1)
    return low.bring_channels(chain.binary.other, *span, begin, end - begin)
