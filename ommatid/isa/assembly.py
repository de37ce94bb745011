"""Assembly: a program as text that a person can read, and back to the same bytes.

One line is one instruction: its index, mnemonic, the fields that are not at their default, the tokens it waits
for and signals, and its layer as a comment. The rest of a program follows in sections: metadata as JSON, arrays as
base64.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

from ommatid.isa.instructions import BY_MNEMONIC, BY_OPCODE, DTYPES, STREAM, Engine, Field, view
from ommatid.isa.program import Program
from ommatid.isa.program_file import ProgramFileError, header_of, program_of, tensors_of

Array = np.ndarray[Any, Any]
TITLE = "ommatid assembly 1"
_QUEUES = [
    f"{core}.{engine.name.lower()}" if core else engine.name.lower() for core in range(4) for engine in Engine
]
_BITS = {name: 8 * (i // len(Engine)) + i % len(Engine) for i, name in enumerate(_QUEUES)}
_NAMES = {bit: name for name, bit in _BITS.items()}


class AssemblyError(ValueError):
    """A text that is no program; the message names the line, ``hint`` says what was needed."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def disassemble(program: Program) -> str:
    """The program as text; ``assemble`` gives back the same program."""
    lines = [TITLE, f"; target {program.target.name}, {len(program.instructions)} instructions"]
    lines += instruction_lines(program)
    lines += ["", "metadata", json.dumps(header_of(program), sort_keys=True, allow_nan=False)]
    for name, array in tensors_of(program).items():
        if name != "instructions":
            text = base64.b64encode(array.tobytes()).decode()
            lines += ["", f"array {name} {array.dtype} {','.join(map(str, array.shape))}"]
            lines += [text[i : i + 100] for i in range(0, len(text), 100)]
    return "\n".join(lines) + "\n"


def instruction_lines(program: Program) -> list[str]:
    """A line for each instruction: its number, engine and mnemonic, fields, tokens, and its layer as a comment."""
    stream = program.instructions
    views = {opcode: view(stream, row.mnemonic) for opcode, row in BY_OPCODE.items()}
    lines = []
    for i, opcode in enumerate(stream["opcode"].tolist()):
        layer = int(program.layer_of[i])
        name = program.layers[layer].name if 0 <= layer < len(program.layers) else None
        comment = f"  ; layer {json.dumps(name)}" if name is not None else ""  # one line, whatever the name
        if opcode not in BY_OPCODE:
            lines.append(f"{i:6} raw {stream[i : i + 1].tobytes().hex()}{comment}")
            continue
        row = BY_OPCODE[opcode]
        record = views[opcode][i : i + 1]
        shown = [(f, record[f.name][0]) for f in row.fields]
        words = [f"{f.name}={_shown(f, value)}" for f, value in shown if not _is_default(f, value)]
        words += [f"{name}={_mask(int(record[name][0]))}" for name in ("wait", "signal") if record[name][0]]
        words += [f"core={record['core'][0]}"] if record["core"][0] else []
        line = f"{row.engine.name.lower()}.{row.mnemonic} {' '.join(words)}".rstrip()
        if _encoded(line, 0).tobytes() != record.tobytes():  # bytes that no field describes
            line = f"raw {record.tobytes().hex()}"
        lines.append(f"{i:6} {line}{comment}")
    return lines


def _default(field: Field) -> int:
    return field.low if field.low is not None and field.low > 0 else 0


def _is_default(field: Field, value: Any) -> bool:
    return bool(value == _default(field)) and not (field.type.startswith("f") and np.signbit(value))


def _shown(field: Field, value: Any) -> str:
    if field.type.startswith("f"):
        return repr(float(value))
    if field.choices:
        return field.choices[int(value)] if int(value) < len(field.choices) else str(int(value))
    return f"0x{int(value):x}" if "address" in field.unit else str(int(value))


def _mask(mask: int) -> str:
    bits = [bit for bit in range(32) if mask >> bit & 1]
    return ",".join(_NAMES[bit] for bit in bits) if all(bit in _NAMES for bit in bits) else f"0x{mask:x}"


# --- text to program -------------------------------------------------------------------------------------


def assemble(text: str) -> Program:
    """The program of a text.

    Raises:
        AssemblyError: a line cannot be read; it is named.
    """
    lines = text.splitlines()
    if not lines or lines[0] != TITLE:
        raise AssemblyError(f"line 1: is not {TITLE!r}", "give a file that `ommatid disasm` wrote")
    records: list[bytes] = []
    header: dict[str, Any] | None = None
    arrays: dict[str, Array] = {}
    number = 1
    while number < len(lines):
        line = lines[number].split(";")[0].strip()
        number += 1
        if line == "metadata":
            header = _json(lines, number)
            number += 1
        elif line.startswith("array "):
            name, array, number = _array(lines, number)
            arrays[name] = array
        elif line:
            records.append(_instruction(line, number))
    if header is None:
        raise AssemblyError(f"line {len(lines)}: the section 'metadata' is missing", "the text is cut short")
    arrays["instructions"] = np.frombuffer(b"".join(records), np.uint8)
    try:
        return program_of(header, arrays)
    except (ProgramFileError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise AssemblyError(f"the sections do not make a program: {error}") from None


def _instruction(line: str, number: int) -> bytes:
    _, _, rest = line.partition(" ")
    rest = rest.strip()
    if rest.startswith("raw "):
        try:
            data = bytes.fromhex(rest[4:])
        except ValueError:
            data = b""
        if len(data) != STREAM.itemsize:
            raise AssemblyError(f"line {number}: raw needs {STREAM.itemsize} bytes in hexadecimal")
        return data
    return bytes(_encoded(rest, number).tobytes())


def _encoded(text: str, number: int) -> Array:
    """The record of ``engine.mnemonic field=value ...``."""
    head, *words = text.split() or [""]
    if not head:
        raise AssemblyError(
            f"line {number}: holds no instruction", "a line is INDEX ENGINE.MNEMONIC FIELD=VALUE ..."
        )
    mnemonic = head.rpartition(".")[2]
    if mnemonic not in BY_MNEMONIC:
        raise AssemblyError(f"line {number}: no instruction {head!r}", f"one of {', '.join(BY_MNEMONIC)}")
    row = BY_MNEMONIC[mnemonic]
    fields = {f.name: f for f in row.fields}
    record = np.zeros(1, DTYPES[mnemonic])
    record["opcode"] = row.opcode
    for name, field in fields.items():
        record[name] = _default(field)
    for word in words:
        name, _, value = word.partition("=")
        if name not in fields and name not in ("wait", "signal", "core"):
            raise AssemblyError(
                f"line {number}: {mnemonic} has no field {name!r}", f"its fields are {', '.join(fields)}"
            )
        try:
            record[name] = _parsed(fields.get(name), name, value)
        except (ValueError, KeyError, OverflowError):
            raise AssemblyError(f"line {number}: {mnemonic}.{name} = {value!r} cannot be read") from None
    return record


def _parsed(field: Field | None, name: str, value: str) -> Any:
    if name in ("wait", "signal"):
        queues = value.split(",")
        if len(set(queues)) < len(queues):
            raise ValueError("a queue is named twice")
        return int(value, 16) if value.startswith("0x") else sum(1 << _BITS[queue] for queue in queues)
    if field is not None and field.type.startswith("f"):
        return np.float32(float(value))
    if field is not None and value in field.choices:
        return field.choices.index(value)
    return int(value, 0)


def _json(lines: list[str], number: int) -> dict[str, Any]:
    try:
        header: dict[str, Any] = json.loads(lines[number])
    except (IndexError, ValueError):
        raise AssemblyError(f"line {number + 1}: metadata must be one line of JSON") from None
    return header


def _array(lines: list[str], number: int) -> tuple[str, Array, int]:
    """The array announced in the line before ``number``, and the number of the line after it."""
    try:
        _, name, dtype, dims = lines[number - 1].split()
        end = number
        while end < len(lines) and lines[end]:
            end += 1
        data = base64.b64decode("".join(lines[number:end]), validate=True)
        return name, np.frombuffer(data, dtype).reshape([int(d) for d in dims.split(",")]), end
    except (ValueError, TypeError):
        raise AssemblyError(
            f"line {number}: an array is 'array NAME DTYPE SHAPE' and lines of base64"
        ) from None
