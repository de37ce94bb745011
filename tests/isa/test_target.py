"""Targets: presets are those of the design, and a file that cannot be used is refused by file, key and limit."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ommatid.isa.target import DEFAULT_TARGET, PRESETS, TargetError, load_target, preset_names

TEXT = (PRESETS / "ommatid-1k.toml").read_text(encoding="utf-8")
KEYS = list(tomllib.loads(TEXT))
NUMBERS = [key for key in KEYS if key not in ("name", "class")]


def written(path: Path, **changes: Any) -> str:
    """A file of the preset ommatid-1k with other values (as TOML text); None leaves the key out."""
    table = {key: line for line in TEXT.splitlines() if (key := line.partition(" = ")[0]) in KEYS}
    table |= {key: f"{key} = {value}" for key, value in changes.items()}
    path.write_text("\n".join(line for key, line in table.items() if changes.get(key, "") is not None))
    return str(path)


def refused(path: str) -> str:
    with pytest.raises(TargetError) as caught:
        load_target(path)
    return str(caught.value)


def test_presets_are_those_of_the_design() -> None:
    assert sorted(preset_names()) == sorted(path.stem for path in PRESETS.glob("*.toml"))
    small, default, large = (load_target(name) for name in ("ommatid-256", "ommatid-1k", "ommatid-4k"))
    assert load_target() == default and default.name == DEFAULT_TARGET
    for target, macs, tops in ((small, 256, 0.26), (default, 1024, 2), (large, 1024, 8)):
        assert target.macs_per_cycle == macs
        peak = 2 * macs * target.cores * target.clock_mhz * 1e6
        assert math.isclose(peak / 1e12, tops, rel_tol=0.03)
    assert (small.sram_bytes, small.accumulator_bytes) == (384 * 1024, 16 * 1024)
    assert (small.dram_bytes_per_cycle, small.dram_latency_cycles) == (6.4, 50)
    assert (small.vx_word_elements, default.vx_word_elements) == (8, 16)
    assert large.dram_bytes == 4 * 2**30


def test_latency_is_rounded_up(tmp_path: Path) -> None:
    target = load_target(written(tmp_path / "t.toml", dram_latency_ns=100.1, clock_mhz=500))
    assert target.dram_latency_cycles == 51


def test_a_file_by_path_is_a_target(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.toml", name='"mine"', sram_kib=512)
    mine = load_target(path)
    assert load_target(Path(path)) == mine
    assert mine == dataclasses.replace(load_target(), name="mine", sram_kib=512)
    assert list(mine.to_dict()) == KEYS
    assert mine.digest() != load_target().digest() == load_target().digest()


def test_a_file_may_have_the_name_of_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "ommatid-1k.toml", sram_kib=512)
    assert (load_target("ommatid-1k").sram_kib, load_target("ommatid-1k.toml").sram_kib) == (1024, 512)


def test_targets_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_target().sram_kib = 1  # type: ignore[misc]
    with pytest.raises(TargetError, match="sram_kib"):
        dataclasses.replace(load_target(), sram_kib=0)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_needed_and_typed(tmp_path: Path, key: str) -> None:
    path = written(tmp_path / "t.toml", **{key: None})
    assert refused(path) == f"{path}: key {key!r} is missing"
    wrong = "true" if key in NUMBERS else "3"
    assert refused(written(tmp_path / "t.toml", **{key: wrong})).startswith(f"{path}: {key} = ")


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", ["-1", "1_000_000_000_000_000"])
def test_every_number_has_limits(tmp_path: Path, key: str, value: str) -> None:
    path = written(tmp_path / "t.toml", **{key: value})
    message = refused(path)
    assert message.startswith(f"{path}: {key} = ") and ": must be " in message


@pytest.mark.parametrize("key, value, limit", [
    ("mx_k_bytes", "6", "must be 4..64 in steps of 4"),
    ("sram_bank_bytes_per_cycle", "32", "must be 16..16 in steps of 16"),
    ("dram_burst_bytes", "40", "must be 16..4096 in steps of 16"),
    ("clock_mhz", "nan", "must be 1..10000"),
    ("dram_gb_s", "inf", "must be 0.01..10000"),
    ("dram_gb_s", "1" + "0" * 400, "must be 0.01..10000"),
    ("cores", "2.0", "must be of type int"),
])  # fmt: skip
def test_limits_are_named(tmp_path: Path, key: str, value: str, limit: str) -> None:
    path = written(tmp_path / "t.toml", **{key: value})
    message = refused(path)
    assert message.startswith(f"{path}: {key} = ") and message.endswith(limit)


def test_what_is_no_target_file(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    assert refused(str(path)) == f"target {path}: cannot be read: No such file or directory"
    path.write_text("sram_kib = ")
    assert refused(str(path)).startswith(f"target {path}: not a TOML file: ")
    path.write_bytes(b"\xff\xfe")
    assert refused(str(path)).startswith(f"target {path}: not a TOML file: ")
    assert refused(written(path, sram_mib=1)) == f"{path}: unknown key 'sram_mib'"
    with pytest.raises(TargetError, match="unknown target 'ommatid-2k'") as caught:
        load_target("ommatid-2k")
    assert all(name in caught.value.hint for name in preset_names())
