"""A target: one chip of the parametric NPU family, read from a TOML file.

The presets live in ``targets/``; a user's own file has the same keys. Every number carries its unit in
its name. Nothing about a chip is known anywhere else.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

PRESETS = Path(__file__).parent / "targets"
DEFAULT_TARGET = "ommatid-1k"


class TargetError(ValueError):
    """A target that cannot be used; ``hint`` says what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Target:
    """One chip. ``_per_cycle`` numbers are per core; ``dram_gb_s`` is shared by all cores.

    Raises:
        TargetError: a number is missing, of the wrong type, or outside its range.
    """

    name: str
    class_: str
    cores: int
    clock_mhz: float
    mx_k_bytes: int
    mx_channels: int
    mx_pixels: int
    depthwise_macs_per_cycle: int
    accumulator_kib: int
    vx_elements_per_cycle: int
    sram_kib: int
    sram_banks: int
    sram_bank_bytes_per_cycle: int
    port_mx_activation_bytes_per_cycle: int
    port_mx_weight_bytes_per_cycle: int
    port_vx_read_bytes_per_cycle: int
    port_vx_write_bytes_per_cycle: int
    port_load_bytes_per_cycle: int
    port_store_bytes_per_cycle: int
    dram_gb_s: float
    dram_mib: int
    dram_latency_ns: float
    dram_burst_bytes: int
    dram_requests_in_flight: int
    energy_mac_pj: float
    energy_vx_pj_per_element: float
    energy_acc_pj_per_byte: float
    energy_sram_pj_per_byte: float
    energy_dram_pj_per_byte: float
    static_mw: float
    area_mac_um2: float
    area_memory_um2_per_byte: float
    area_port_um2_per_byte: float

    def __post_init__(self) -> None:
        for name in _LIMITS:
            _check_limit(f"target {self.name}", name, getattr(self, name))
        if self.sram_banks & (self.sram_banks - 1):
            raise TargetError(f"target {self.name}: sram_banks = {self.sram_banks}: must be a power of two")

    @property
    def sram_bytes(self) -> int:
        """SRAM of one core, bytes."""
        return self.sram_kib * 1024

    @property
    def accumulator_bytes(self) -> int:
        """Accumulator memory of one core, both halves, bytes."""
        return self.accumulator_kib * 1024

    @property
    def dram_bytes(self) -> int:
        """DRAM of the chip, bytes."""
        return self.dram_mib * 1024 * 1024

    @property
    def dram_bytes_per_cycle(self) -> float:
        """DRAM bandwidth shared by all cores, bytes a clock cycle."""
        return self.dram_gb_s * 1000 / self.clock_mhz

    @property
    def dram_latency_cycles(self) -> int:
        """DRAM latency, clock cycles, rounded up."""
        return -int(-self.dram_latency_ns * self.clock_mhz // 1000)

    @property
    def macs_per_cycle(self) -> int:
        """Dense multiply-accumulates a cycle, one core."""
        return self.mx_k_bytes * self.mx_channels * self.mx_pixels

    @property
    def vx_word_elements(self) -> int:
        """Channels that the vector engine handles as one word: a bank's width, or its lanes if fewer."""
        return min(self.sram_bank_bytes_per_cycle, self.vx_elements_per_cycle)

    def to_dict(self) -> dict[str, object]:
        """The target's TOML keys and values, in declaration order."""
        return {_key(f.name): getattr(self, f.name) for f in dataclasses.fields(self)}

    def digest(self) -> str:
        """SHA-256 of all that the target says (hex); two targets with one digest are one chip."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


# name: (least, most, multiple of; 0: any)
_LIMITS: dict[str, tuple[float, float, int]] = {
    "cores": (1, 4, 1),
    "clock_mhz": (1, 10_000, 0),
    "mx_k_bytes": (4, 64, 4),
    "mx_channels": (4, 64, 4),
    "mx_pixels": (1, 64, 1),
    "depthwise_macs_per_cycle": (4, 4096, 4),
    "accumulator_kib": (4, 4096, 1),
    "vx_elements_per_cycle": (1, 1024, 1),
    "sram_kib": (32, 65536, 1),
    "sram_banks": (1, 256, 1),
    "sram_bank_bytes_per_cycle": (16, 16, 16),
    "port_mx_activation_bytes_per_cycle": (1, 4096, 1),
    "port_mx_weight_bytes_per_cycle": (1, 4096, 1),
    "port_vx_read_bytes_per_cycle": (1, 4096, 1),
    "port_vx_write_bytes_per_cycle": (1, 4096, 1),
    "port_load_bytes_per_cycle": (1, 4096, 1),
    "port_store_bytes_per_cycle": (1, 4096, 1),
    "dram_gb_s": (0.01, 10_000, 0),
    "dram_mib": (1, 4096, 1),
    "dram_latency_ns": (0, 100_000, 0),
    "dram_burst_bytes": (16, 4096, 16),
    "dram_requests_in_flight": (1, 4096, 1),
    "energy_mac_pj": (0, 1e6, 0),
    "energy_vx_pj_per_element": (0, 1e6, 0),
    "energy_acc_pj_per_byte": (0, 1e6, 0),
    "energy_sram_pj_per_byte": (0, 1e6, 0),
    "energy_dram_pj_per_byte": (0, 1e6, 0),
    "static_mw": (0, 1e9, 0),
    "area_mac_um2": (0, 1e9, 0),
    "area_memory_um2_per_byte": (0, 1e9, 0),
    "area_port_um2_per_byte": (0, 1e9, 0),
}


def _check_limit(where: str, name: str, value: float) -> None:
    low, high, multiple = _LIMITS[name]
    if not low <= value <= high or (multiple and value % multiple):
        steps = f" in steps of {multiple}" if multiple > 1 else ""
        raise TargetError(f"{where}: {name} = {value}: must be {low}..{high}{steps}")


def most(name: str) -> int:
    """The largest value of a number that a target can have."""
    return int(_LIMITS[name][1])


def _key(field: str) -> str:
    return field.rstrip("_")


def numbers() -> dict[str, type]:
    """The numbers of a target by name, and whether each is an int or a float."""
    kinds = {"int": int, "float": float}
    return {f.name: kinds[str(f.type)] for f in dataclasses.fields(Target) if f.name in _LIMITS}


def preset_names() -> list[str]:
    """The names of the targets that ship with ommatid, smallest first."""
    return ["ommatid-256", "ommatid-1k", "ommatid-4k"]


def load_target(name_or_path: str | Path = DEFAULT_TARGET) -> Target:
    """The preset of that name, or the target in that TOML file.

    Raises:
        TargetError: no such preset or file, not TOML, or a key that is missing, unknown or out of range.
    """
    name = str(name_or_path)
    if name in preset_names():
        return _read(PRESETS / f"{name}.toml")
    if not name.endswith(".toml"):
        raise TargetError(
            f"unknown target {name!r}",
            f"use one of {', '.join(preset_names())}, or the path of a .toml file",
        )
    return _read(Path(name))


@functools.cache
def _preset_text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _read(path: Path) -> Target:
    try:
        text = _preset_text(path) if path.parent == PRESETS else path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except OSError as error:
        raise TargetError(f"target {path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetError(f"target {path}: not a TOML file: {error}") from None
    return target_from_dict(table, str(path))


def target_from_dict(table: dict[str, object], where: str = "target") -> Target:
    """A target from its TOML table; ``where`` names the file in errors.

    Raises:
        TargetError: a key is missing, unknown, of the wrong type or out of range.
    """
    fields = {_key(f.name): f for f in dataclasses.fields(Target)}
    for key in table:
        if key not in fields:
            raise TargetError(f"{where}: unknown key {key!r}", f"the keys are {', '.join(fields)}")
    values: dict[str, object] = {}
    for key, field in fields.items():
        if key not in table:
            raise TargetError(f"{where}: key {key!r} is missing", "copy a preset and change its numbers")
        value = table[key]
        wanted = {"int": int, "float": (int, float), "str": str}[str(field.type)]
        if isinstance(value, bool) or not isinstance(value, wanted):  # type: ignore[arg-type]
            raise TargetError(f"{where}: {key} = {value!r}: must be of type {field.type}")
        if key in _LIMITS:
            _check_limit(where, key, value)  # type: ignore[arg-type]
        values[field.name] = float(value) if field.type == "float" else value  # type: ignore[arg-type]
    return Target(**values)  # type: ignore[arg-type]
