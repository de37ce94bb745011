"""Regressions: a program against its entry in a baseline, and the layers that made the difference."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ommatid.isa.program import Program
from ommatid.profiler.baseline import Baseline, BaselineError, Entry, entry_of
from ommatid.profiler.compare import accuracy
from ommatid.profiler.diff import FIGURES, Row, match
from ommatid.profiler.measure import feeds_for, measure
from ommatid.runtime.compile import compile_model
from ommatid.runtime.variants import shapes_of

#: The most layers that are named for one finding.
MOST_NAMED = 3
#: Of a network: as it was, better, worse or different, without an entry, not to be compiled.
STATUSES = ("ok", "improved", "regressed", "missing", "error")
RUN_UPDATE = "run `ommatid ci update --baseline {file}`"


@dataclass(frozen=True)
class Finding:
    """Of one figure, or of an output: what it was and is, whether that is worse, and the layers that made it so."""

    what: str
    before: Any
    after: Any
    worse: bool
    layers: tuple[str, ...] = ()

    def text(self) -> str:
        """One line."""
        if isinstance(self.before, str):
            line = f"{self.what}: {self.before or 'nothing'} is now {self.after or 'nothing'}"
        else:
            change = f" ({100 * (self.after - self.before) / self.before:+.2f}%)" if self.before else ""
            line = f"{self.what}: {self.before:,} is now {self.after:,}{change}"
        return line + (f", by {', '.join(self.layers)}" if self.layers else "")


@dataclass(frozen=True)
class Verdict:
    """What became of a network: one of STATUSES, and why."""

    name: str
    status: str
    findings: tuple[Finding, ...] = ()
    message: str = ""

    @property
    def ok(self) -> bool:
        """Whether a check may pass."""
        return self.status in ("ok", "improved")

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that made it worse."""
        return tuple(dict.fromkeys(layer for f in self.findings if f.worse for layer in f.layers))

    def lines(self) -> list[str]:
        """What there is to say."""
        return [*([self.message] if self.message else []), *(f.text() for f in self.findings)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``ci`` prints it."""
        findings = [dataclasses.asdict(f) | {"layers": list(f.layers)} for f in self.findings]
        return {
            "name": self.name, "status": self.status, "message": self.message,
            "layers": list(self.layers), "findings": findings,
        }  # fmt: skip


def judge(
    name: str, entry: Entry | None, now: Entry, tolerance: dict[str, float], file: str = "F"
) -> Verdict:
    """A network's entry as measured now, against the one of the baseline."""
    if entry is None or not entry.figures:
        return Verdict(name, "missing", message=f"{name}: has no entry; {RUN_UPDATE.format(file=file)}")
    findings = [*_other_chip(entry, now), *_outputs(entry, now)]
    for key in dict.fromkeys([*entry.figures, *now.figures]):
        before, after = entry.figures.get(key, 0), now.figures.get(key, 0)
        slack = tolerance["sqnr_db"] if key == "sqnr_db" else abs(before) * tolerance[f"{key}_percent"] / 100
        growth = before - after if key == "sqnr_db" else after - before
        if abs(growth) > slack + 1e-9:
            layers = culprits(entry.layers, now.layers, key) if growth > 0 else ()
            findings.append(Finding(key, before, after, growth > 0, layers))
    worse = any(f.worse for f in findings)
    return Verdict(name, "regressed" if worse else "improved" if findings else "ok", tuple(findings))


def _other_chip(entry: Entry, now: Entry) -> list[Finding]:
    if entry.target_sha256 == now.target_sha256:
        return []
    same = entry.target == now.target
    return [Finding("target", entry.target, f"{now.target}, of other numbers" if same else now.target, True)]


def _outputs(entry: Entry, now: Entry) -> list[Finding]:
    names = dict.fromkeys([*entry.outputs, *now.outputs])
    return [
        Finding(
            f"output {name!r}", before[:12], after[:12], True, culprits(entry.layers, now.layers, "output")
        )
        for name in names
        if (before := entry.outputs.get(name, "")) != (after := now.outputs.get(name, ""))
    ]


def culprits(before: Sequence[Row], after: Sequence[Row], key: str) -> tuple[str, ...]:
    """The layers that made a figure or the outputs differ.

    For nodes on the host: those that are gone. For outputs and accuracy: those whose code differs, else the first
    whose output does. For a figure: of the groups of rows where it grew, those whose code differs too, else all, the
    largest growth first; where it grew in none, those whose code differs.
    """
    groups = match(before, after)
    place = {id(row): at for at, row in enumerate(after)}
    groups.sort(key=lambda pair: min((place[id(row)] for row in pair[1]), default=-1))
    if key == "cpu_nodes":
        names = {row["name"] for row in after}
        chosen = [pair for pair in groups if not names.issuperset(row["name"] for row in pair[0])]
    elif key in ("output", "sqnr_db"):
        changed = [p for p in groups if _texts(p[0], "code") != _texts(p[1], "code")]
        other = [p for p in groups if _texts(p[0], "output") != _texts(p[1], "output")][:1]
        chosen = changed or other
    else:
        change = FIGURES[key]
        growth = [(_sum(change, b, key) - _sum(change, a, key), (a, b)) for a, b in groups]
        grown = [pair for by, pair in sorted(growth, key=lambda g: -g[0]) if by > 1e-9]
        changed = [p for p in groups if _texts(p[0], "code") != _texts(p[1], "code")]
        chosen = [p for p in grown if p in changed] or grown or changed
    found = [(rows_before or rows_after)[0]["name"] for rows_before, rows_after in chosen[:MOST_NAMED]]
    return tuple(found)


def _texts(rows: Sequence[Row], key: str) -> list[str]:
    return [row.get(key, "") for row in rows]


def _sum(change: Any, rows: Sequence[Row], key: str) -> float:
    return change([row.get(key, 0) for row in rows]) if rows else 0


# --- networks of a baseline ----------------------------------------------------------------------------------


def measured_entry(
    model: Any, options: dict[str, Any], name: str = "", program: Program | None = None
) -> Entry:
    """The entry of a model (path, bytes or ModelProto), compiled with these options unless ``program`` is given.

    Raises:
        CompileError, TargetError: it cannot be compiled.
    """
    made = program or compile_model(model, **options)
    feeds = feeds_for(made)
    found = measure(made, feeds)
    shapes = made.info.get("calibrated_at") or shapes_of(made.inputs)
    cut = (options.get("inputs", ()), options.get("outputs", ()))
    reports = accuracy(made, model, [feeds], None, shapes, *cut) if shapes == shapes_of(made.inputs) else []
    if reports:
        found["figures"]["sqnr_db"] = round(min(r.sqnr_db for r in reports), 2)
    return entry_of(name, options, made, found)


def resolved(entry: Entry, folder: Path) -> dict[str, Any]:
    """An entry's compile options with its files found beside the baseline."""
    options = dict(entry.compile)
    for key in ("calibration", "recipe", "target"):
        value = options.get(key)
        if isinstance(value, str) and (folder / value).exists():
            options[key] = os.fspath(folder / value)
    return options


def chosen(baseline: Baseline, names: Sequence[str]) -> list[str]:
    """The networks of these names, or all."""
    if not names and not baseline.networks:
        raise BaselineError("the baseline names no network", 'add [networks.NAME] with model = "M.onnx"')
    return list(names or baseline.networks)


def now_entry(baseline: Baseline, name: str, folder: Path) -> Entry:
    """A network of the baseline compiled and measured.

    Raises:
        BaselineError: it has no entry, or that has no model. CompileError: it cannot be compiled.
    """
    entry = baseline.networks.get(name)
    if entry is None and Path(name).suffix == ".onnx":
        entry = Entry(model=name)
    if entry is None or not entry.model:
        raise BaselineError(
            f"{name}: the baseline has no model of it", 'add [networks.NAME] with model = "M.onnx"'
        )
    found = measured_entry(str(folder / entry.model), resolved(entry, folder), entry.model)
    return dataclasses.replace(found, compile=entry.compile)


def check(baseline: Baseline, names: Sequence[str], folder: Path, file: str) -> list[Verdict]:
    """The verdict on each network of the baseline; one that cannot be compiled is an error."""
    verdicts = []
    for name in chosen(baseline, names):
        entry = baseline.networks.get(name)
        if entry is None or not entry.figures:
            verdicts.append(judge(name, None, Entry(), baseline.tolerance, file))
            continue
        try:
            verdicts.append(judge(name, entry, now_entry(baseline, name, folder), baseline.tolerance, file))
        except ValueError as error:
            if not hasattr(error, "hint"):
                raise
            verdicts.append(Verdict(name, "error", message=f"{name}: {error}"))
    return verdicts


def update(baseline: Baseline, names: Sequence[str], folder: Path) -> tuple[Baseline, list[Verdict]]:
    """The baseline with what these networks are now, and what that changes."""
    verdicts = []
    for name in chosen(baseline, names):
        key = Path(name).stem if Path(name).suffix == ".onnx" else name
        entry = now_entry(baseline, name, folder)
        verdicts.append(judge(key, baseline.networks.get(key), entry, baseline.tolerance))
        baseline = baseline.updated(key, entry)
    return baseline, verdicts
