"""Whether descriptors are legal: fields within their limits, and the rules between fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ommatid.isa.elements import I16, TYPES, map_sizes, size
from ommatid.isa.instructions import BY_OPCODE, HEADER, MOST_CORES, Field, Instruction, view
from ommatid.isa.program import Program

Array = np.ndarray[Any, Any]

_QUEUE_BITS = sum(1 << (8 * core + engine) for core in range(MOST_CORES) for engine in range(5))
_LOW, _HIGH = (
    np.array([0 if kind.bytes == 2 else getattr(kind, side) for kind in TYPES]) for side in ("low", "high")
)  # of the zero point of each type


def describe(program: Program, index: int) -> str:
    """An instruction in words: its index, mnemonic and layer."""
    row = BY_OPCODE.get(int(program.instructions["opcode"][index]))
    layer = int(program.layer_of[index]) if index < len(program.layer_of) else -1
    where = f" of layer {program.layers[layer].name!r}" if 0 <= layer < len(program.layers) else ""
    return f"instruction {index} ({row.mnemonic if row else 'unknown'}{where})"


#: What is wrong with the width of accumulators.
_WIDTH = (
    lambda r: r["acc_bytes"] != 4 * size(r["src_type"]),
    "acc_bytes must be 8 with src_type i16, else 4",
)

#: Mnemonic: rules between fields, as (where they are broken, what is needed).
_RULES: dict[str, tuple[tuple[Callable[[Array], Array], str], ...]] = {
    "conv": (
        (
            lambda r: (
                (r["row_mode"] == 1)
                & (
                    ((r["src_pixel"] != size(r["src_type"]) * r["cin"]) & (r["kw"] > 1))
                    | (r["dilation_w"] != 1)
                )
            ),
            "row_mode needs src_pixel = cin elements and dilation_w = 1",
        ),
        (
            lambda r: (r["weights_type"] == I16) & (r["src_type"] != I16),
            "weights_type i16 must be with src_type i16",
        ),
        _WIDTH,
    ),
    "dwconv": (_WIDTH,),
    "map": ((lambda r: map_sizes(r).wrong, "a step reads another size of element than it is given"),),
    "pool": (
        (
            lambda r: (r["kind"] == 0) & (size(r["src_type"]) != size(r["dst_type"])),
            "dst_type must be of the size of src_type for max",
        ),
    ),
    "norm": ((lambda r: r["epsilon"] <= 0, "epsilon must be above 0"),),
    "topk": (
        (lambda r: r["k"] > r["c"], "k must be at most c"),
        (lambda r: (r["values_on"] | r["indices_on"]) == 0, "values_on or indices_on must be set"),
    ),
}


def illegal_descriptors(program: Program) -> list[str]:
    """What is wrong with the descriptors of a program, one sentence each; rules are looked at once fields are right."""
    stream, problems = program.instructions, []
    known = np.isin(stream["opcode"], list(BY_OPCODE))
    problems += [f"{describe(program, int(i))}: no such opcode" for i in np.flatnonzero(~known)]
    if program.operands.shape[0] != len(stream) or len(program.layer_of) != len(stream):
        problems.append("operand and layer tables do not have one row for each instruction")
    return problems or _wrong_fields(program) + _wrong_headers(program) or _broken_rules(program)


def _rows(program: Program) -> list[tuple[Instruction, Array]]:
    """The rows that a program uses, and the places of their instructions."""
    opcodes = program.instructions["opcode"]
    return [(BY_OPCODE[int(opcode)], np.flatnonzero(opcodes == opcode)) for opcode in np.unique(opcodes)]


def _wrong_fields(program: Program) -> list[str]:
    """Fields outside their limits, and cores that are not there."""
    problems = []
    for row, where in _rows(program):
        records = view(program.instructions, row.mnemonic)[where]
        for field in (*HEADER[1:3], *row.fields):
            values = records[field.name]
            problems += [
                f"{describe(program, int(where[k]))}: {field.name} = {values[k]} is not allowed"
                for k in np.flatnonzero(_out_of_range(field, values))[:5]
            ]
        for operand in row.operands:
            cores = np.ones(len(where), np.int64) if operand.cores is None else operand.cores(records)
            problems += [
                f"{describe(program, int(i))}, operand {operand.name}: the target has no such core"
                for i in where[cores >> program.target.cores != 0]
            ]
    return problems


def _wrong_headers(program: Program) -> list[str]:
    """Tokens of queues, and cores, that are not there."""
    stream, problems = program.instructions, []
    for name in ("wait", "signal"):
        for i in np.flatnonzero(stream[name] & ~np.uint32(_QUEUE_BITS)):
            bit = next(bit for bit in range(32) if int(stream[name][i]) & ~_QUEUE_BITS & 1 << bit)
            problems.append(
                f"{describe(program, int(i))}: {name} = {stream[name][i]} names no queue by bit {bit}"
            )
    absent = stream["core"] >= program.target.cores
    return problems + [
        f"{describe(program, int(i))}: the target has no such core" for i in np.flatnonzero(absent)
    ]


def _broken_rules(program: Program) -> list[str]:
    """Fields that do not go together: zero points and types, places and sizes of elements, ``_RULES``."""
    problems = []
    for row, where in _rows(program):
        records = view(program.instructions, row.mnemonic)[where]
        problems += _zero_points(program, records, where)
        problems += _misaligned(program, row, records, where)
        for broken, rule in _RULES.get(row.mnemonic, ()):
            problems += [f"{describe(program, int(i))}: {rule}" for i in where[broken(records)]]
    return problems


def _zero_points(program: Program, records: Array, where: Array) -> list[str]:
    """Zero points that are no value of their type (``src_zero`` with ``src_type`` and so on), or not 0 with i16."""
    problems = []
    for name in records.dtype.names or ():
        kind = name.replace("_zero", "_type")
        if name.endswith("_zero") and kind in records.dtype.names:
            wrong = (records[name] < _LOW[records[kind]]) | (records[name] > _HIGH[records[kind]])
            problems += [
                f"{describe(program, int(where[k]))}: {name} = {records[name][k]} is no zero point of {kind}"
                for k in np.flatnonzero(wrong)
            ]
    return problems


def _misaligned(program: Program, row: Instruction, records: Array, where: Array) -> list[str]:
    """Operands whose address or steps are no multiples of their element's size."""
    problems = []
    for operand in row.operands:
        elements = operand.size(records)
        run, loops = operand.extent(records, program.target)
        places = [records[operand.field].astype(np.int64), *(stride for _, stride in loops)]
        wrong = (run > 0) & np.any([place % elements != 0 for place in places], axis=0)
        problems += [
            f"{describe(program, int(where[k]))}, operand {operand.name}: "
            f"{operand.field} and its steps must be multiples of {elements[k]}"
            for k in np.flatnonzero(wrong)
        ]
    return problems


def _out_of_range(field: Field, values: Array) -> Array:
    if field.type.startswith("f"):
        return ~np.isfinite(values)
    wide = values.astype(np.int64)
    bad = np.zeros(len(wide), bool)
    if field.low is not None:
        bad |= wide < field.low
    if field.high is not None:
        bad |= wide > field.high
    return bad | (wide % field.step != 0)
