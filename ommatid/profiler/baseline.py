"""The baseline: a TOML file that says what networks cost and give, written by the tool and read by reviewers.

``[tolerance]`` says by how much a figure may grow (``*_percent``) or the signal over noise fall (``sqnr_db``). A
network has ``model`` (a path beside the file) and ``[networks.NAME.compile]`` (options of ``ommatid.compile``), which
a person writes, and what ``update`` found: figures, hashes of outputs, and a line for each layer.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ommatid.isa import release
from ommatid.isa.program_file import write_whole

SCHEMA = "ommatid.baseline/1"
#: By how much the figures may grow, percent; what ``sqnr_db`` may fall, dB.
TOLERANCE: dict[str, float] = {
    "cycles_percent": 0.0, "instructions_percent": 0.0, "dram_bytes_percent": 0.0, "sram_peak_bytes_percent": 0.0,
    "energy_uj_percent": 0.01, "cpu_nodes_percent": 0.0, "sqnr_db": 0.1,
}  # fmt: skip
_LAYER = ("nodes", "cycles", "instructions", "dram_bytes", "sram_peak_bytes", "energy_uj", "code", "output")


class BaselineError(ValueError):
    """A baseline that cannot be used; ``hint`` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Entry:
    """A network's entry; without ``figures`` it has never been measured."""

    model: str = ""
    compile: dict[str, Any] = field(default_factory=dict)
    target: str = ""
    target_sha256: str = ""
    ommatid: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    layers: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Baseline:
    """The file's tolerances and networks."""

    tolerance: dict[str, float] = field(default_factory=lambda: dict(TOLERANCE))
    networks: dict[str, Entry] = field(default_factory=dict)

    def updated(self, name: str, entry: Entry) -> Baseline:
        """The baseline with this entry."""
        return dataclasses.replace(self, networks=dict(sorted((self.networks | {name: entry}).items())))


def read_baseline(path: str | Path) -> Baseline:
    """The baseline in a file; an empty one if there is none.

    Raises:
        BaselineError: it is not TOML, or not a baseline.
    """
    if not Path(path).exists():
        return Baseline()
    again = "write it with `ommatid ci update`"
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BaselineError(f"{path}: is not TOML: {error}", again) from None
    if table.get("schema", SCHEMA) != SCHEMA:
        raise BaselineError(f"{path}: schema is {table['schema']!r}; {SCHEMA!r} is needed", again)
    tolerance = table.get("tolerance", {})
    if unknown := [key for key in tolerance if key not in TOLERANCE]:
        raise BaselineError(f"{path}: unknown tolerance {unknown[0]!r}", f"they are {', '.join(TOLERANCE)}")
    try:
        networks = {name: _entry(fields) for name, fields in table.get("networks", {}).items()}
    except (AttributeError, TypeError, KeyError) as error:
        raise BaselineError(f"{path}: an entry cannot be read: {error}", again) from None
    return Baseline(TOLERANCE | tolerance, networks)


def _entry(fields: dict[str, Any]) -> Entry:
    rows = tuple({"name": name, "nodes": [name]} | row for name, row in fields.get("layers", {}).items())
    return Entry(**fields | {"layers": rows})


def write_baseline(path: str | Path, baseline: Baseline) -> None:
    """Write the file, whole or not at all; comments of an older one are lost."""
    write_whole(path, to_toml(baseline).encode())


def to_toml(baseline: Baseline) -> str:
    """The file's text; ``read_baseline`` gives back the same."""
    lines = [
        "# What networks cost and give. Written by `ommatid ci update`; edit tolerance, model and compile."
    ]
    lines += [f"schema = {_text(SCHEMA)}", "", "[tolerance]"]
    lines += [f"{key} = {_text(value)}" for key, value in baseline.tolerance.items()]
    for name, entry in baseline.networks.items():
        title = f"networks.{_key(name)}"
        lines += ["", f"[{title}]"]
        plain = ("model", "target", "target_sha256", "ommatid")
        lines += [f"{key} = {_text(getattr(entry, key))}" for key in plain if getattr(entry, key)]
        for part in ("compile", "figures", "outputs"):
            if values := getattr(entry, part):
                lines += ["", f"[{title}.{part}]"]
                lines += [f"{_key(key)} = {_text(value)}" for key, value in values.items()]
        if entry.layers:
            lines += ["", f"[{title}.layers]"]
            lines += [f"{_key(row['name'])} = {_layer(row)}" for row in entry.layers]
    return "\n".join(lines) + "\n"


def _layer(row: dict[str, Any]) -> str:
    kept = {
        key: row[key] for key in _LAYER if key in row and not (key == "nodes" and row[key] == [row["name"]])
    }
    return "{ " + ", ".join(f"{key} = {_text(value)}" for key, value in kept.items()) + " }"


def _key(name: str) -> str:
    plain = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if plain else json.dumps(name)


def _text(value: Any) -> str:
    """A value in TOML: of what JSON writes, strings, numbers, booleans and lists are TOML too."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_text(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    return json.dumps(value, ensure_ascii=True)


def entry_of(model: str, options: dict[str, Any], program: Any, measured: dict[str, Any]) -> Entry:
    """An entry of what ``measure`` found of a program."""
    return Entry(
        model=model,
        compile=options,
        target=program.target.name,
        target_sha256=program.target.digest(),
        ommatid=release(),
        figures=measured["figures"],
        outputs=measured["outputs"],
        layers=tuple(measured["layers"]),
    )
