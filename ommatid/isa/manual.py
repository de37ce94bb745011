"""The tables of ``docs/isa.md`` and ``docs/targets.md``: ``python -m ommatid.isa.manual docs`` rewrites them.

The prose of ``docs/isa.md`` is written by hand; what stands between ``<!-- table:NAME -->`` and
``<!-- /table -->`` is made here from ``INSTRUCTIONS``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ommatid.isa.instructions import (
    BY_MNEMONIC,
    DTYPES,
    HEADER,
    INSTRUCTIONS,
    STREAM,
    Field,
    Instruction,
    Mode,
)
from ommatid.isa.target import load_target, preset_names

_TABLE = re.compile(r"<!-- table:(\w+) -->\n.*?<!-- /table -->", re.DOTALL)


class ManualError(ValueError):
    """The markers of ``docs/isa.md`` and the instruction set differ."""


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return (
        "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        + "\n"
    )


def _type(code: str) -> str:
    return f"{code[0]}{8 * np.dtype(code).itemsize}"


def _limits(field: Field) -> str:
    if field.choices:
        return ", ".join(f"{value} {name}" for value, name in enumerate(field.choices))
    parts = []
    if field.low is not None and field.high is not None:
        parts.append(f"{field.low}..{field.high}" if field.low != field.high else str(field.low))
    elif field.low is not None:
        parts.append(f"at least {field.low}")
    elif field.high is not None:
        parts.append(f"at most {field.high}")
    if field.step > 1:
        parts.append(f"multiple of {field.step}")
    return ", ".join(parts)


def _fields(fields: tuple[Field, ...], dtype: np.dtype[Any]) -> str:
    offsets = {name: int(place[1]) for name, place in (dtype.fields or {}).items()}
    rows = [
        (str(offsets[f.name]), f"`{f.name}`", _type(f.type), f.unit, _limits(f), f.meaning)
        for f in sorted(fields, key=lambda f: offsets[f.name])
    ]
    return _rows(("byte", "field", "type", "unit", "limits", "meaning"), rows)


def _mode(mode: object) -> str:
    names = {Mode.READ: "read", Mode.WRITE: "written", Mode.UPDATE: "read and written"}
    return names[mode] if isinstance(mode, Mode) else "written; read too if `accumulate`"


def instruction_table(row: Instruction) -> str:
    """Fields and memory operands of one instruction, in Markdown."""
    text = f"Opcode {row.opcode}, queue {row.engine.name.lower()}.\n"
    if row.fields:
        text += "\n" + _fields(row.fields, DTYPES[row.mnemonic])
    if row.operands:
        operands = [(o.name, o.memory.name, _mode(o.mode), f"`{o.field}`") for o in row.operands]
        text += "\n" + _rows(("operand", "memory", "is", "address in"), operands)
    return text


def _table(name: str) -> str:
    if name == "header":
        return _fields(HEADER, STREAM)
    if name == "instructions":
        rows = [(f"`{r.mnemonic}`", str(r.opcode), r.engine.name.lower(), r.summary) for r in INSTRUCTIONS]
        return _rows(("mnemonic", "opcode", "queue", "what it does"), rows)
    if name not in BY_MNEMONIC:
        raise ManualError(f"docs/isa.md has a table for {name!r}, which is no instruction")
    return instruction_table(BY_MNEMONIC[name])


def fill(text: str) -> str:
    """The manual with all of its tables made anew.

    Raises:
        ManualError: an instruction has no marker, or more than one, or a marker names no instruction.
    """
    found = _TABLE.findall(text)
    for row in INSTRUCTIONS:
        if found.count(row.mnemonic) != 1:
            raise ManualError(
                f"docs/isa.md must have one table for {row.mnemonic}, not {found.count(row.mnemonic)}"
            )
    return _TABLE.sub(lambda m: f"<!-- table:{m[1]} -->\n{_table(m[1])}<!-- /table -->", text)


def targets_page() -> str:
    """``docs/targets.md``: the presets side by side."""
    targets = [load_target(name) for name in preset_names()]
    columns = [target.to_dict() for target in targets]
    rows = [(f"`{key}`", *(str(column[key]) for column in columns)) for key in columns[0] if key != "name"]
    derived = {
        "dense MACs a cycle, one core": [str(t.macs_per_cycle) for t in targets],
        "peak TOPS, all cores (a MAC is two)": [
            f"{2 * t.macs_per_cycle * t.cores * t.clock_mhz / 1e6:.2f}" for t in targets
        ],
        "DRAM bytes a cycle": [f"{t.dram_bytes_per_cycle:.1f}" for t in targets],
        "DRAM latency, cycles": [str(t.dram_latency_cycles) for t in targets],
    }
    rows += [(name, *values) for name, values in derived.items()]
    return (
        "# Targets\n\n"
        "The presets in `ommatid/isa/targets/`. A file of your own has the same keys; changing a preset's\n"
        "number means giving it a new name. `_per_cycle` numbers are per core, the DRAM is shared by all\n"
        "cores. What each number does to the time is said in [isa.md](isa.md). `make docs` writes this page.\n\n"
        + _rows(("", *(f"`{t.name}`" for t in targets)), rows)
    )


def main(folder: str) -> None:
    """Rewrite ``isa.md`` (its tables) and ``targets.md`` in ``folder``."""
    manual = Path(folder) / "isa.md"
    manual.write_text(fill(manual.read_text(encoding="utf-8")), encoding="utf-8")
    (Path(folder) / "targets.md").write_text(targets_page(), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m ommatid.isa.manual FOLDER")
    main(sys.argv[1])
