"""Whether the tests notice faults: 100 seeded ones in the timing and functional code, each in a copy of its own.

``python -m benchmarks.mutants`` prints how each fares and writes ``docs/mutants.md``; exit status 1 if fewer than 95
are caught. Results are kept by the fault's name as they come: ``--resume`` takes what an earlier run caught as caught,
and tries the others again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.faults import Mutant, draw, sources
from tests.simulator.test_fidelity import FIXED, NUMBERS

ROOT = Path(__file__).parents[1]
GATE = 95  # percent
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
#: Test files that are likely to notice a fault in a file, by the end of its path: the first entry that fits.
#: They run in this order until a test fails.
TESTS = {
    "isa/cost.py": ("isa/test_cost", "simulator/test_timing", "simulator/test_micro", "simulator/test_energy",
                    "simulator/test_fidelity"),
    "simulator/energy.py": ("simulator/test_energy",),
    "simulator/counters.py": ("simulator/test_counters", "simulator/test_timing", "profiler/test_profile"),
    "simulator/functional.py": ("simulator/test_functional", "simulator/test_fidelity", "runtime/test_session"),
    "simulator/memories.py": ("simulator/test_functional", "simulator/test_kernels", "simulator/test_fidelity",
                              "runtime/test_session"),
    "kernels/team.py": ("simulator/test_functional", "simulator/test_fidelity"),
    "kernels/multiply.py": ("simulator/test_convolution", "simulator/test_kernels", "simulator/test_functional",
                            "simulator/test_fidelity"),
    "kernels/": ("simulator/test_kernels", "simulator/test_arithmetic", "simulator/test_element",
                 "simulator/test_convolution", "simulator/test_functional", "simulator/test_fidelity"),
    "simulator/words.py": ("simulator/test_words", "simulator/test_crowding", "simulator/test_timing", "simulator/test_micro",
                           "simulator/test_energy", "simulator/test_fidelity"),
    "simulator/crowding.py": ("simulator/test_crowding", "simulator/test_micro", "simulator/test_timing",
                              "simulator/test_fidelity"),
    "simulator/banks.py": ("simulator/test_crowding", "simulator/test_contention", "simulator/test_fidelity"),
    "simulator/": ("simulator/test_timing", "simulator/test_contention", "simulator/test_micro", "simulator/test_energy",
                   "simulator/test_fidelity", "profiler/test_profile"),
}  # fmt: skip
#: Seconds of the CPU that a run of tests may take before it counts as hung, and of the clock.
CPU_SECONDS = {"timing": 100, "functional": 200}
CLOCK_SECONDS = 1800
#: Errors of faults that no program runs with: another draw stands in for them.
STILLBORN = re.compile(
    r"^E +(numba\.\S+|NameError|AttributeError|TypeError|ImportError|SyntaxError)\b", re.MULTILINE
)


@dataclass(frozen=True)
class Result:
    """How a fault fared: ``caught``, ``survived`` or ``stillborn``; the test that failed, crashed or hung."""

    outcome: str
    by: str = ""
    how: str = ""
    seconds: float = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__)
    parser.add_argument(
        "-n", "--count", type=int, default=100, help="faults, half of them in timing code (default 100)"
    )
    parser.add_argument("-s", "--seed", type=int, default=0, help="which are drawn (default 0)")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="test runs at a time (default 2)")
    parser.add_argument(
        "--minutes", type=float, default=600, help="start no more faults after so long (default 600)"
    )
    parser.add_argument("--trust", action="store_true", help="skip the run without a fault, which must pass")
    parser.add_argument("--resume", action="store_true", help="try those again only that were not caught")
    parser.add_argument(
        "--kept", type=Path, default=ROOT / ".mutants.json", help="results (default .mutants.json)"
    )
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "mutants.md", help="the page")
    options = parser.parse_args(arguments)
    results: dict[str, Result] = {}
    earlier: dict[str, Result] = {}  # survivors of an earlier run: what they are until they are tried again
    if options.resume and options.kept.exists():
        for name, row in json.loads(options.kept.read_text(encoding="utf-8")).items():
            (earlier if row["outcome"] == "survived" else results)[name] = Result(**row)
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch, ThreadPoolExecutor(options.jobs) as pool:
        clean = Path(scratch, "clean")
        copy_tree(ROOT, clean)
        if not options.trust:
            warm_up(clean)
        drawn = [Drawn(group, draw(clean, files, options.seed)) for group, files in sources(clean).items()]
        last = time.monotonic() + 60 * options.minutes
        while any(g.missing(options.count // 2, results) for g in drawn):
            fresh = [
                (m, g)
                for g in drawn
                for m in g.take(g.missing(options.count // 2, results))
                if m.id not in results
            ]
            runs = {pool.submit(attempt, clean, CPU_SECONDS[g.name], last, m): m for m, g in fresh}
            for run in as_completed(runs):
                mutant, result = runs[run], run.result()
                if result is None:
                    continue
                results[mutant.id] = result
                print(
                    f"{mutant.id} {result.outcome:9} {mutant.file}: {mutant.after}  {result.by} {result.how}",
                    flush=True,
                )
                rows = {name: asdict(row) for name, row in (earlier | results).items()}
                options.kept.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    text, share = page(drawn, earlier | results, options.seed)
    options.output.write_text(text, encoding="utf-8")
    print(f"{share:.0f}% caught; see {options.output}")
    return 0 if share >= GATE else 1


class Drawn:
    """The faults of a group as far as they are drawn, and those passed over because they change nothing."""

    def __init__(self, name: str, source: Iterator[Mutant]) -> None:
        self.name, self.source = name, source
        self.mutants: list[Mutant] = []
        self.equivalent: list[tuple[Mutant, str]] = []
        rows = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["equivalent"]
        self.reasons = {
            (r["file"], r["function"], r["before"], r["after"], r.get("turn", 0)): r["reason"] for r in rows
        }

    def take(self, count: int) -> list[Mutant]:
        """The next faults that change something."""
        found: list[Mutant] = []
        while len(found) < count:
            mutant = next(self.source)
            reason = self.reasons.get(
                (mutant.file, mutant.function, mutant.before, mutant.after, mutant.turn)
            )
            if reason:
                self.equivalent.append((mutant, reason))
            else:
                found.append(mutant)
        self.mutants += found
        return found

    def missing(self, count: int, results: dict[str, Result]) -> int:
        """How many more of them must be drawn, so that ``count`` run at all."""
        return count - sum(m.id not in results or results[m.id].outcome != "stillborn" for m in self.mutants)


def files_of(file: str) -> tuple[str, ...]:
    """The test files for a file, below ``tests``."""
    return next(tests for end, tests in TESTS.items() if end in file)


def attempt(clean: Path, cpu_seconds: int, last: float, mutant: Mutant) -> Result | None:
    """Put a fault into a copy of the tree and run its tests; None if it is later than ``last``."""
    if time.monotonic() > last:
        return None
    tree = clean.with_name(mutant.id)
    shutil.copytree(clean, tree, symlinks=True)
    try:
        path = tree / mutant.file
        path.write_text(mutant.apply(path.read_text(encoding="utf-8")), encoding="utf-8")
        return run_tests(tree, files_of(mutant.file), cpu_seconds)
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def warm_up(clean: Path) -> None:
    """Run all the tests without a fault: they must pass, and Numba keeps what no fault changes."""
    tests = tuple(
        dict.fromkeys(test for files in sources(clean).values() for f in files for test in files_of(f))
    )
    result = run_tests(clean, tests, sum(CPU_SECONDS.values()))
    if result.outcome != "survived":
        raise SystemExit(f"error: without a fault, {result.by} {result.how}")


def copy_tree(root: Path, to: Path) -> None:
    """Copy the files that git knows or would add, and the compiled code beside them, which is valid for what it was."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root, check=True, capture_output=True
    )
    kept = (str(path.relative_to(root)) for path in root.glob("ommatid/**/__pycache__/*.nb?"))
    for name in filter(None, [*listed.stdout.decode().split("\0"), *kept]):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, to / name, follow_symlinks=False)


def run_tests(tree: Path, tests: Sequence[str], cpu_seconds: int) -> Result:
    """Run test files in a tree until one fails, crashes or takes too long."""
    files = [f"tests/{test}.py" for test in tests if (tree / "tests" / f"{test}.py").exists()]
    daily = [
        f"--deselect=tests/simulator/test_fidelity.py::test_executors_agree[{n}]" for n in NUMBERS[FIXED:]
    ]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-v",
        "--tb=short",
        "-o",
        "addopts=",
        "-p",
        "no:cacheprovider",
        *daily,
        *files,
    ]
    limited = ["sh", "-c", f'ulimit -t {cpu_seconds}; exec "$@"', "sh", *command]
    environment = os.environ | {
        "CI": "true",
        "PYTHONPATH": str(tree),
        "OMMATID_CACHE_DIR": str(tree / ".cache"),
    }
    environment.pop("NUMBA_CACHE_DIR", None)
    log, begin = tree / "log.txt", time.monotonic()
    with (
        log.open("w") as out,
        subprocess.Popen(
            limited, cwd=tree, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        ) as run,
    ):
        try:
            run.wait(CLOCK_SECONDS)
        except subprocess.TimeoutExpired:
            run.kill()
    return judged(log.read_text(encoding="utf-8", errors="replace"), run.returncode, time.monotonic() - begin)


def judged(log: str, status: int, seconds: float) -> Result:
    """The result that pytest's output and exit status tell."""
    if status == 0:
        return Result("survived", seconds=round(seconds, 1))
    names = re.findall(r"^(?:FAILED |ERROR )?(tests/\S+\.py(?:::\S+)?)", log, re.MULTILINE)
    how = "failed" if status > 0 else "hung" if status == -9 else "crashed"
    outcome = "stillborn" if STILLBORN.search(log) else "caught"
    return Result(outcome, names[-1] if names else "", how, round(seconds, 1))


def page(drawn: Sequence[Drawn], results: dict[str, Result], seed: int) -> tuple[str, float]:
    """``docs/mutants.md``, and the share that is caught, percent."""
    ran = {d.name: [m for m in d.mutants if m.id in results] for d in drawn}
    counted = {
        name: [m for m in mutants if results[m.id].outcome != "stillborn"] for name, mutants in ran.items()
    }
    every = list(itertools.chain(*counted.values()))
    caught = sum(results[m.id].outcome == "caught" for m in every)
    excluded = [pair for d in drawn for pair in d.equivalent]
    left = sum(len(d.mutants) for d in drawn) - sum(map(len, ran.values()))
    lines = [
        "# Mutants",
        "",
        "Faults drawn by a seed from the timing and the functional code, one in each function before a second in any,",
        "each put into a copy of the tree whose tests then run until one fails. `make mutants` writes this page.",
        "",
        f"Seed {seed}: **{caught} of {len(every)} caught**. Passed over: {len(excluded)} that change nothing one could",
        f"observe (listed below), and {sum(map(len, ran.values())) - len(every)} that do not even compile or import.",
        *([f"{left} more are drawn and were not run yet."] if left else []),
    ]
    for group, mutants in counted.items():
        lines += [
            "",
            f"## {group.capitalize()}",
            "",
            "| where | line | with the fault | caught by |",
            "| --- | --- | --- | --- |",
        ]
        lines += [_row(m.file, m.function, m.before, m.after, _fate(results[m.id])) for m in mutants]
    lines += [
        "",
        "## Passed over",
        "",
        "| where | line | with the change | why it is none |",
        "| --- | --- | --- | --- |",
    ]
    lines += [_row(m.file, m.function, m.before, m.after, reason) for m, reason in excluded]
    return "\n".join(lines) + "\n", 100 * caught / max(1, len(every) + left)


def _fate(result: Result) -> str:
    if result.outcome == "survived":
        return "**survived**"
    return f"`{result.by.removeprefix('tests/')}`" + (f" ({result.how})" if result.how != "failed" else "")


def _row(file: str, function: str, before: str, after: str, last: str) -> str:
    """A row of a table; of long lines the part that differs."""
    head = next((i for i, pair in enumerate(zip(before, after, strict=False)) if len(set(pair)) > 1), 0)
    start = max(0, head - 40)
    cells = [
        (("…" if start else "") + text[start : head + 60] + ("…" if len(text) > head + 60 else ""))
        for text in (before, after)
    ]
    code = [f"`` {cell.replace('|', chr(92) + '|')} ``" for cell in cells]
    return f"| `{file.removeprefix('ommatid/')}` {function} | {code[0]} | {code[1]} | {last} |"


if __name__ == "__main__":
    sys.exit(main())
