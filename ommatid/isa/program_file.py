"""The ``.omm`` file: a program as safetensors, with checksums over everything that it holds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from ommatid.isa.instructions import ISA_VERSION, MAX_OPERANDS, STREAM
from ommatid.isa.pieces import joined, share
from ommatid.isa.program import (
    FORMAT_VERSION,
    SYMBOL,
    Layer,
    Node,
    Partition,
    Placed,
    Port,
    Program,
    Quantization,
    Tensor,
)
from ommatid.isa.target import TargetError, target_from_dict

Array = np.ndarray[Any, Any]
KEY = "ommatid"


class ProgramFileError(ValueError):
    """A file that is not a program, is damaged, or is of another version; ``hint`` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def save(program: Program, path: str | Path) -> None:
    """Write a program; the file appears whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    write_whole(path, to_bytes(program))


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a file by way of a temporary one beside it, so that nobody sees half of it.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:  # which names the temporary file
        raise OSError(error.errno, error.strerror, str(path)) from None


def to_bytes(program: Program) -> bytes:
    """The file's bytes; the same program gives the same bytes."""
    kept, pieces = share(program.variants) if program.others else ([], [])
    tensors: dict[str, Array] = {}
    for number, variant in enumerate(program.variants):
        own = tensors_of(variant)
        if number:
            own |= {"constants": kept[number], "pieces": pieces[number]}
        tensors |= {_stored(number, name): array for name, array in own.items()}
    header = header_of(program) | {
        "others": [header_of(other) for other in program.others],
        "checksums": {name: _digest(array) for name, array in sorted(tensors.items())},
    }
    text = _canonical(header)
    metadata = {KEY: text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    return _sorted_header(safetensors.numpy.save(tensors, metadata))


def _sorted_header(data: bytes) -> bytes:
    """The same file with its JSON header in order of keys: the library's own order is not fixed."""
    return _header(data) + data[8 + int.from_bytes(data[:8], "little") :]


def _header(data: bytes) -> bytes:
    """What comes before a file's tensors, in order of keys."""
    text = _canonical(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _stored(number: int, name: str) -> str:
    """What the file calls an array of a variant: the first variant's have their own names."""
    return f"{number}/{name}" if number else name


def tensors_of(program: Program) -> dict[str, Array]:
    """The program's arrays by name, in the order of the file; those of its others are left out."""
    tensors: dict[str, Array] = {
        "instructions": np.frombuffer(program.instructions.tobytes(), np.uint8),
        "operands": program.operands.astype(np.int32),
        "layer_of": program.layer_of.astype(np.int32),
        "constants": np.ascontiguousarray(program.constants),
        "symbols": np.frombuffer(program.symbols.tobytes(), np.uint8),
    }
    for number, partition in enumerate(program.partitions):
        if partition.model:
            tensors[f"partition_{number}"] = np.frombuffer(partition.model, np.uint8)
    return tensors


_PLAIN = ("dram_bytes", "lower_bound_cycles", "roofline_cycles", "compulsory_dram_bytes", "metadata", "info")


def header_of(program: Program) -> dict[str, Any]:
    """All else of a program, as plain JSON data; its others are left out."""
    partitions = [dataclasses.asdict(dataclasses.replace(p, model=b"")) for p in program.partitions]
    for partition in partitions:
        del partition["model"]
    return {
        "format_version": FORMAT_VERSION,
        "isa_version": ISA_VERSION,
        "target": program.target.to_dict(),
        "layers": [dataclasses.asdict(layer) for layer in program.layers],
        "nodes": [[node.name, node.op, node.fate, *node.layers] for node in program.nodes],
        "placed": [_placed_fields(placed) for placed in program.placed],
        "partitions": partitions,
        "inputs": [dataclasses.asdict(port) for port in program.inputs],
        "outputs": [dataclasses.asdict(port) for port in program.outputs],
        **{name: getattr(program, name) for name in _PLAIN},
    }


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(array: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


# --- reading -------------------------------------------------------------------------------------------


def load(source: str | Path | bytes | bytearray | memoryview) -> Program:
    """The program in a file or in its bytes.

    Raises:
        ProgramFileError: it is none, is cut short or altered, or is of another version.
    """
    if isinstance(source, str | Path):
        name = str(source)
        try:
            data = Path(source).read_bytes()
        except IsADirectoryError:
            raise ProgramFileError(
                f"{name}: is a folder, not a program", "give the path of the .omm file"
            ) from None
        except OSError as error:
            raise ProgramFileError(f"{name}: cannot be read: {error.strerror}", "check the path") from None
    else:
        name, data = "program", bytes(source)
    return from_bytes(data, name)


def from_bytes(data: bytes, name: str = "program") -> Program:
    """The program in a file's bytes; ``name`` is what errors call it.

    Raises:
        ProgramFileError: as ``load``.
    """
    again = "compile the model again"
    if not data:
        raise ProgramFileError(f"{name}: is empty", again)
    try:
        tensors = safetensors.numpy.load(data)
        size = int.from_bytes(data[:8], "little")
        outer = json.loads(data[8 : 8 + size])
        metadata = outer["__metadata__"]
        text = metadata[KEY]
    except Exception:
        raise ProgramFileError(f"{name}: is not an ommatid program, or is cut short", again) from None
    if hashlib.sha256(text.encode()).hexdigest() != metadata.get("sha256"):
        raise ProgramFileError(f"{name}: its metadata was altered (checksum)", again)
    header = json.loads(text)
    _check_version(header, name)
    for key, array in sorted(tensors.items()):
        if header["checksums"].get(key) != _digest(array):
            raise ProgramFileError(f"{name}: its part {key!r} was altered (checksum)", again)
    if header["checksums"].keys() != tensors.keys() or not data.startswith(_header(data)):
        raise ProgramFileError(f"{name}: its header was altered", again)
    try:
        return _with_others(header, tensors)
    except (AttributeError, KeyError, TypeError, ValueError, TargetError) as error:
        raise ProgramFileError(f"{name}: its metadata is not that of a program: {error}", again) from None


def _check_version(header: dict[str, Any], name: str) -> None:
    from ommatid.isa import release

    for key, ours in (("format_version", FORMAT_VERSION), ("isa_version", ISA_VERSION)):
        theirs = header.get(key)
        if theirs != ours:
            newer = isinstance(theirs, int) and theirs > ours
            raise ProgramFileError(
                f"{name}: has {key} {theirs}; ommatid {release()} reads {ours}",
                "upgrade ommatid" if newer else "compile the model again",
            )


def _with_others(header: dict[str, Any], tensors: dict[str, Array]) -> Program:
    headers = [header, *header["others"]]
    kept = [tensors[_stored(number, "constants")] for number in range(len(headers))]
    variants = []
    for number, each in enumerate(headers):
        own = {name: array for key, array in tensors.items() for name in [_own(number, key)] if name}
        if number:
            own["constants"] = joined(kept, own["pieces"])
        variants.append(program_of(each, own))
    return dataclasses.replace(variants[0], others=tuple(variants[1:]))


def _own(number: int, key: str) -> str:
    """The inverse of ``_stored``; empty for an array of another variant."""
    prefix, _, name = key.rpartition("/")
    return name if prefix == (str(number) if number else "") else ""


def program_of(header: dict[str, Any], tensors: dict[str, Array]) -> Program:
    """The inverse of ``header_of`` and ``tensors_of``; without others."""
    partitions = []
    for number, fields in enumerate(header["partitions"]):
        model = tensors.get(f"partition_{number}")
        lists: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        partitions.append(Partition(**lists, model=model.tobytes() if model is not None else b""))
    return Program(
        target=target_from_dict(header["target"]),
        instructions=np.frombuffer(tensors["instructions"].tobytes(), STREAM).copy(),
        operands=tensors["operands"].reshape(-1, MAX_OPERANDS).copy(),
        layer_of=tensors["layer_of"].copy(),
        constants=tensors["constants"].copy(),
        symbols=np.frombuffer(tensors["symbols"].tobytes(), SYMBOL).copy(),
        layers=tuple(Layer(**fields | {"nodes": tuple(fields["nodes"])}) for fields in header["layers"]),
        nodes=tuple(Node(name, op, fate, tuple(layers)) for name, op, fate, *layers in header["nodes"]),
        placed=tuple(_placed(fields) for fields in header["placed"]),
        partitions=tuple(partitions),
        inputs=tuple(_port(fields) for fields in header["inputs"]),
        outputs=tuple(_port(fields) for fields in header["outputs"]),
        **{name: header[name] for name in _PLAIN},
    )


def _placed_fields(placed: Placed) -> dict[str, Any]:
    fields = dataclasses.asdict(placed)
    return fields if placed.held else {name: value for name, value in fields.items() if name != "held"}


def _placed(fields: dict[str, Any]) -> Placed:
    inner = fields["tensor"]
    tensor = Tensor(
        inner["name"], tuple(inner["shape"]), Quantization(**inner["quantization"]),
        tuple(inner["onnx_shape"]), tuple(inner["to_onnx"]),
    )  # fmt: skip
    held = tuple(tuple(of_core) for of_core in fields.get("held", ()))
    return Placed(**fields | {"tensor": tensor, "strides": tuple(fields["strides"]), "held": held})


def _port(fields: dict[str, Any]) -> Port:
    return Port(**fields | {"shape": tuple(fields["shape"])})
