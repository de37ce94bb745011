"""The .omm file: the same program comes back, and nothing that was cut, altered or made by another version does."""

from __future__ import annotations

import dataclasses
import json
import os
import pickletools
import stat
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from ommatid.isa import program_file
from ommatid.isa.instructions import ISA_VERSION
from ommatid.isa.program import empty_program
from ommatid.isa.program_file import ProgramFileError, header_of, load, save, tensors_of, to_bytes
from ommatid.isa.target import load_target
from tests.isa.records import same, whole_program

PROGRAM = whole_program()
DATA = to_bytes(PROGRAM)
VARIANTS = dataclasses.replace(PROGRAM, others=(dataclasses.replace(PROGRAM, dram_bytes=9), whole_program()))
HEADER_END = 8 + int.from_bytes(DATA[:8], "little")


def test_the_same_program_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "p.omm"
    PROGRAM.save(str(path))
    assert path.read_bytes() == DATA == to_bytes(whole_program())
    for source in (path, str(path), DATA, bytearray(DATA), memoryview(DATA)):
        assert same(load(source), PROGRAM)
    assert to_bytes(load(DATA)) == DATA
    load(DATA).instructions["wait"] = 0  # its arrays are its own


def test_an_empty_program_comes_back() -> None:
    program = empty_program(load_target("ommatid-4k"))
    assert same(load(to_bytes(program)), program)


def test_safetensors_alone_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "p.omm"
    save(PROGRAM, path)
    with safetensors.safe_open(path, "np") as file:
        names = set(file.keys())
        header = json.loads(file.metadata()["ommatid"])
        instructions = file.get_tensor("instructions")
        model = file.get_tensor("partition_0")
    assert names == {"instructions", "operands", "layer_of", "constants", "symbols", "partition_0"}
    assert instructions.tobytes() == PROGRAM.instructions.tobytes()
    assert model.tobytes() == PROGRAM.partitions[0].model
    assert header["target"]["name"] == "ommatid-256" and header["isa_version"] == ISA_VERSION
    assert header["metadata"] == {"alphabet": "a\nb"}


def test_no_pickle(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"."):
        list(pickletools.genops(DATA))
    (tmp_path / "p.omm").write_bytes(b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94.")
    with pytest.raises(ProgramFileError, match="is not an ommatid program"):
        load(tmp_path / "p.omm")


def cuts() -> list[int]:
    """Every length up to the header's begin, and some in and at the ends of every region."""
    size = len(DATA)
    ends = [HEADER_END - 1, HEADER_END, HEADER_END + 1, size - 1]
    return sorted({*range(16), *range(8, HEADER_END, 97), *ends, *range(HEADER_END, size, 61)})


def test_a_file_cut_anywhere_is_refused() -> None:
    for length in cuts():
        with pytest.raises(ProgramFileError, match=r"is empty|is cut short") as caught:
            load(DATA[:length])
        assert caught.value.hint == "compile the model again"


def test_a_file_with_something_behind_it_is_refused() -> None:
    for more in (b"\0", b" ", DATA):
        with pytest.raises(ProgramFileError):
            load(DATA + more)


@settings(deadline=None, max_examples=150)
@given(st.one_of(st.integers(0, HEADER_END - 1), st.integers(HEADER_END, len(DATA) - 1)), st.integers(1, 255))
def test_a_file_altered_in_any_byte_is_refused(at: int, flip: int) -> None:
    data = bytearray(DATA)
    data[at] ^= flip
    with pytest.raises(ProgramFileError):
        load(data)


@pytest.mark.parametrize(
    "name", ["instructions", "operands", "layer_of", "constants", "symbols", "partition_0"]
)
def test_an_altered_part_is_named(name: str) -> None:
    size = HEADER_END
    begin, _ = json.loads(DATA[8:size])[name]["data_offsets"]
    data = bytearray(DATA)
    data[size + begin] ^= 1
    with pytest.raises(ProgramFileError, match=f"program: its part '{name}' was altered"):
        load(data)


def test_renamed_and_missing_parts_are_refused() -> None:
    tensors = safetensors.numpy.load(DATA)
    metadata = json.loads(DATA[8:HEADER_END])["__metadata__"]
    for change in (
        {name: array for name, array in tensors.items() if name != "constants"},
        tensors | {"more": np.zeros(1, np.uint8)},
        tensors | {"operands": tensors["operands"].T.copy()},
    ):
        with pytest.raises(ProgramFileError, match="was altered"):
            load(safetensors.numpy.save(change, metadata))
    with pytest.raises(ProgramFileError, match="its metadata was altered"):
        load(safetensors.numpy.save(tensors, metadata | {"sha256": "0" * 64}))
    with pytest.raises(ProgramFileError, match="is not an ommatid program"):
        load(safetensors.numpy.save(tensors, {"format": "pt"}))


@pytest.mark.parametrize("key", ["FORMAT_VERSION", "ISA_VERSION"])
@pytest.mark.parametrize("version, hint", [(99, "upgrade ommatid"), (0, "compile the model again")])
def test_a_file_of_another_version_says_so(
    monkeypatch: pytest.MonkeyPatch, key: str, version: int, hint: str
) -> None:
    ours = getattr(program_file, key)
    with monkeypatch.context() as patch:
        patch.setattr(program_file, key, version)
        foreign = to_bytes(PROGRAM)
    with pytest.raises(
        ProgramFileError, match=rf"program: has {key.lower()} {version}; ommatid .* reads {ours}"
    ) as caught:
        load(foreign)
    assert caught.value.hint == hint


@pytest.mark.parametrize("key, value", [
    ("layers", [1]), ("partitions", ["a"]), ("placed", [{}]), ("inputs", None), ("target", {}), ("operands", None),
])  # fmt: skip
def test_metadata_of_no_program_is_refused(key: str, value: object) -> None:
    header = json.loads(json.loads(DATA[8:HEADER_END])["__metadata__"]["ommatid"]) | {key: value}
    if key == "operands":  # not a whole number of rows
        header = header_of(PROGRAM)
    tensors = tensors_of(PROGRAM) | ({"operands": np.zeros(5, np.int32)} if key == "operands" else {})
    header["checksums"] = {name: sha256(array.tobytes()).hexdigest() for name, array in tensors.items()}
    text = json.dumps(header)
    metadata = {"ommatid": text, "sha256": sha256(text.encode()).hexdigest()}
    with pytest.raises(ProgramFileError, match="its metadata is not that of a program"):
        load(program_file._sorted_header(safetensors.numpy.save(tensors, metadata)))


def test_no_file_and_no_program(tmp_path: Path) -> None:
    with pytest.raises(ProgramFileError, match=r"none\.omm: cannot be read: No such file"):
        load(tmp_path / "none.omm")
    with pytest.raises(ProgramFileError, match="is a folder"):
        load(tmp_path)
    (tmp_path / "empty.omm").touch()
    with pytest.raises(ProgramFileError, match=r"empty\.omm: is empty"):
        load(tmp_path / "empty.omm")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.omm"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for step in ("replace", "chmod"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, full)
            with pytest.raises(OSError, match="No space left"):
                save(PROGRAM, path)
        assert [p.name for p in tmp_path.iterdir()] == ["p.omm"] and path.read_bytes() == b"old"
    save(PROGRAM, path)
    assert [p.name for p in tmp_path.iterdir()] == ["p.omm"] and path.read_bytes() == DATA
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    with pytest.raises(OSError, match="No such file"):
        save(PROGRAM, tmp_path / "none" / "p.omm")


# --- programs of several shapes ------------------------------------------------------------------------------


def test_variants_come_back_and_share_constants(tmp_path: Path) -> None:
    VARIANTS.save(str(tmp_path / "p.omm"))
    data = (tmp_path / "p.omm").read_bytes()
    program = load(data)
    assert to_bytes(program) == data == to_bytes(VARIANTS)
    assert len(program.variants) == 3 and len(PROGRAM.variants) == 1
    for each, wanted in zip(program.variants, (PROGRAM, *VARIANTS.others), strict=True):
        assert same(each, wanted) and not each.others
    stored = safetensors.numpy.load(data)
    assert stored["constants"].tobytes() == PROGRAM.constants.tobytes()
    assert stored["1/constants"].size == stored["2/constants"].size == 0
    assert stored["2/partition_0"].tobytes() == PROGRAM.partitions[0].model


def test_damaged_variants_are_refused() -> None:
    data = to_bytes(VARIANTS)
    begin = 8 + int.from_bytes(data[:8], "little")
    for length in {*range(0, len(data), 997), begin, len(data) - 1}:
        with pytest.raises(ProgramFileError):
            load(data[:length])
    for at in {*range(3, len(data), 499), len(data) - 1}:
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(ProgramFileError):
            load(changed)


def forged(change: Any) -> bytes:
    """The file of VARIANTS with its header (and arrays) changed, and checksums that agree."""
    data = to_bytes(VARIANTS)
    tensors = safetensors.numpy.load(data)
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8:end])["__metadata__"]["ommatid"])
    change(header, tensors)
    header["checksums"] = {name: sha256(array.tobytes()).hexdigest() for name, array in tensors.items()}
    text = json.dumps(header)
    metadata = {"ommatid": text, "sha256": sha256(text.encode()).hexdigest()}
    return program_file._sorted_header(safetensors.numpy.save(tensors, metadata))


@pytest.mark.parametrize("change", [
    lambda header, tensors: header["others"].append(header["others"][0]),
    lambda header, tensors: header["others"].append(1),
    lambda header, tensors: header.pop("others"),
    lambda header, tensors: tensors.update({"1/pieces": np.array([[0, 9999, 64]])}),
    lambda header, tensors: tensors.update({"1/pieces": np.array([0, 0])}),
    lambda header, tensors: tensors.pop("2/instructions"),
])  # fmt: skip
def test_variants_that_cannot_be_are_refused(change: Any) -> None:
    assert same(load(forged(lambda header, tensors: None)).variants[1], VARIANTS.others[0])
    with pytest.raises(ProgramFileError, match="its metadata is not that of a program"):
        load(forged(change))
