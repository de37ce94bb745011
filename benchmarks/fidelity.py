"""How far the fast executors are from the reference machine, on random programs and on layers of real networks.

``python -m benchmarks.fidelity`` prints it and writes ``docs/fidelity.md``; exit status 1 if a gate fails.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ommatid.isa.target import preset_names
from tests.simulator.layers import NETWORKS, Piece, compile_workload, pieces, run_pieces
from tests.simulator.outcome import Outcome, compare
from tests.simulator.programs import random_program

PROGRAM_GATE = 5.0  # percent, at the 95th percentile
LAYER_GATE, LAYER_MOST, LONG = 2.0, 4.0, 20_000  # percent at the 95th percentile, and at most; cycles
SHORT_GATE = 64  # cycles, for shorter layers
LAYERS = 20  # for each target
PAGE = Path(__file__).parents[1] / "docs" / "fidelity.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fidelity", description=__doc__)
    parser.add_argument("-n", "--programs", type=int, default=2000, help="random programs (default 2000)")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument(
        "--layers", type=int, default=LAYERS, help=f"layers for each target (default {LAYERS})"
    )
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="sets half of the seeds")
    parser.add_argument(
        "--kept", type=Path, help="folder in which compiled networks are kept for another run"
    )
    parser.add_argument("-o", "--output", type=Path, default=PAGE, help="the page (default docs/fidelity.md)")
    options = parser.parse_args(arguments)
    seeds = seeds_of(options.programs, datetime.date.fromisoformat(options.date))
    with ProcessPoolExecutor(options.jobs) as pool, tempfile.TemporaryDirectory() as scratch:
        programs = list(pool.map(run_program, seeds, chunksize=8))
        layers = run_layers(pool, options.layers, options.kept or Path(scratch))
    page, failed = report(seeds, programs, layers)
    print(page)
    options.output.write_text(page, encoding="utf-8")
    for gate in failed:
        print(f"gate failed: {gate}", file=sys.stderr)
    return 1 if failed else 0


def seeds_of(count: int, day: datetime.date) -> list[int]:
    """Half of them always the same, from 0 on, half from the day's number on."""
    return [
        *range(count - count // 2),
        *range(day.toordinal() * 10_000, day.toordinal() * 10_000 + count // 2),
    ]


def target_of(seed: int) -> str:
    """The target of a random program."""
    return preset_names()[seed % len(preset_names())]


def run_program(seed: int) -> Outcome:
    """A random program on all executors."""
    target = target_of(seed)
    return compare(f"seed {seed}", random_program(seed, target))


def run_layers(pool: ProcessPoolExecutor, count: int, folder: Path) -> list[Outcome]:
    """Layers of the networks, ``count`` for each target, on all executors."""
    if not count:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    work = [(name, target, folder / f"{name}-{target}.omm") for target in preset_names() for name in NETWORKS]
    found = list(pool.map(_compiled, work))
    outcomes: list[Outcome] = []
    jobs = []
    for target in preset_names():
        here = [
            (path, piece)
            for (_, t, path), some in zip(work, found, strict=True)
            if t == target
            for piece in some
        ]
        chosen = spread(here, count, preset_names().index(target))
        jobs += [(path, [p for q, p in chosen if q == path]) for path in dict.fromkeys(q for q, _ in chosen)]
    for some in pool.map(_run_pieces, jobs):
        outcomes += some
    return outcomes


def _compiled(job: tuple[str, str, Path]) -> list[Piece]:
    name, target, path = job
    return pieces(name, compile_workload(name, target, path))


def _run_pieces(job: tuple[Path, list[Piece]]) -> list[Outcome]:
    return run_pieces(*job)


def spread(found: list[tuple[Path, Piece]], count: int, seed: int) -> list[tuple[Path, Piece]]:
    """So many of them, of every kind in turn; the choice within a kind is by ``seed``."""
    rng = np.random.default_rng(seed)
    kinds: dict[str, list[tuple[Path, Piece]]] = {}
    for at in rng.permutation(len(found)).tolist():
        kinds.setdefault(found[at][1].kind, []).append(found[at])
    chosen: list[tuple[Path, Piece]] = []
    while len(chosen) < count and any(kinds.values()):
        chosen += [kinds[kind].pop() for kind in sorted(kinds) if kinds[kind]]
    return sorted(chosen[:count], key=lambda c: (c[0].name, c[1].begin))


# --- the page -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gate:
    """A promise: its words, what was measured, and whether it holds."""

    promise: str
    measured: str
    holds: bool


def report(seeds: list[int], programs: list[Outcome], layers: list[Outcome]) -> tuple[str, list[str]]:
    """The page, and the gates that fail."""
    long = [o for o in layers if o.reference >= LONG]
    short = [o for o in layers if o.reference < LONG]
    gates = [
        _bits("random programs", programs), _bits("layers", layers),
        _percentile("random programs", programs, PROGRAM_GATE),
        _percentile(f"layers of {LONG:,} cycles and more", long, LAYER_GATE),
        _most(f"layers of {LONG:,} cycles and more", long, lambda o: abs(o.percent), LAYER_MOST, "%"),
        _most("shorter layers", short, lambda o: abs(o.fast - o.reference), SHORT_GATE, " cycles"),
    ]  # fmt: skip
    beyond = [o for o in programs if abs(o.percent) > PROGRAM_GATE and abs(o.fast - o.reference) > 1]
    beyond += [o for o in long if abs(o.percent) > LAYER_GATE]
    beyond += [o for o in short if abs(o.fast - o.reference) > SHORT_GATE]
    half = len(seeds) - len(seeds) // 2
    stated = f"0 to {half - 1}" + (
        f" and {seeds[half]} to {seeds[-1]}, which the date sets" if seeds[half:] else ""
    )
    parts = [
        "# Fidelity\n",
        "Written by `make fidelity`. The reference machine steps every cycle and is written from [isa.md](isa.md) alone;"
        " here the functional executor's bits and the timing executor's cycles are compared with it: whether each is"
        " consistent with its specification, not with a chip. A positive error is a fast model that takes too long.\n",
        _table(["gate", "measured", ""], [[g.promise, g.measured, "holds" if g.holds else "**fails**"] for g in gates]),
        f"## Random programs\n\nSeeds {stated} (`tests/simulator/programs.py`); targets in turn.\n",
        _table(HEAD, _rows(programs, "all", lambda o: o.target)),
        "Each instruction's own cycles, by its kind: those for which it holds its engine, and those from its start to its"
        " end. Errors are all differences' sizes together, and their sum, of the reference's cycles.\n",
        _table(KINDS, _kinds(programs)),
        "## Layers\n\nOf networks compiled for each target, cut to 50,000 cycles where longer; their memories hold what"
        " the network before them computed from a random input.\n",
        _table(
            ["layer", "target", "kind", "instructions", "fast", "reference", "error", "bits"],
            [
                [o.name, o.target, o.kind, str(o.instructions), f"{o.fast:,}", f"{o.reference:,}",
                 f"{o.fast - o.reference:+,} ({o.percent:+.2f}%)", "equal" if o.equal else "**differ**"]
                for o in layers
            ],
        ),
        f"## Beyond the gates\n\n{len(beyond)} of {len(programs) + len(layers)}.\n",
        *[f"- {o.name} on {o.target}: {o.fast:,} for {o.reference:,} cycles ({o.percent:+.1f}%). {o.cause}\n" for o in beyond],
    ]  # fmt: skip
    return "\n".join(parts), [f"{g.promise}: {g.measured}" for g in gates if not g.holds]


HEAD = ["", "count", "bits equal", "error: median", "95th percentile", "most", "mean, signed"]


KINDS = [
    "",
    "count",
    "cycles held",
    "error",
    "signed",
    "most",
    "cycles to the end",
    "error",
    "signed",
    "most",
]


def _kinds(outcomes: list[Outcome]) -> list[list[str]]:
    rows = []
    for kind in sorted({kind for o in outcomes for kind in o.durations}):
        all_of = np.concatenate([o.durations[kind] for o in outcomes if kind in o.durations])
        row = [kind, f"{len(all_of):,}"]
        for fast, judge in (all_of[:, :2].T, all_of[:, 2:].T):
            error, total = fast - judge, max(1, int(judge.sum()))
            row += [
                f"{total:,}", f"{100 * np.abs(error).sum() / total:.2f}%", f"{100 * error.sum() / total:+.2f}%",
                f"{np.abs(error).max():,}",
            ]  # fmt: skip
        rows.append(row)
    return rows


def _rows(outcomes: list[Outcome], total: str | None, key: Callable[[Outcome], str]) -> list[list[str]]:
    groups = {name: [o for o in outcomes if key(o) == name] for name in sorted({key(o) for o in outcomes})}
    if total:
        groups[total] = outcomes
    rows = []
    for name, some in groups.items():
        errors = np.abs([o.percent for o in some])
        if len(errors):
            rows.append([
                name, str(len(some)), str(sum(o.equal for o in some)), f"{np.median(errors):.2f}%",
                f"{np.percentile(errors, 95):.2f}%", f"{errors.max():.2f}%", f"{np.mean([o.percent for o in some]):+.2f}%",
            ])  # fmt: skip
    return rows


def _bits(what: str, outcomes: list[Outcome]) -> Gate:
    equal = sum(o.equal for o in outcomes)
    return Gate(f"{what}: bits equal in all", f"{equal} of {len(outcomes)}", equal == len(outcomes))


def _percentile(what: str, outcomes: list[Outcome], most: float) -> Gate:
    value = float(np.percentile([abs(o.percent) for o in outcomes], 95)) if outcomes else 0.0
    return Gate(
        f"{what}: within {most:g}% at the 95th percentile", f"{value:.2f}% of {len(outcomes)}", value <= most
    )


def _most(what: str, outcomes: list[Outcome], of: Callable[[Outcome], float], most: float, unit: str) -> Gate:
    value = max((of(o) for o in outcomes), default=0)
    return Gate(
        f"{what}: within {most:g}{unit}", f"{value:.4g}{unit} at most, of {len(outcomes)}", value <= most
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
