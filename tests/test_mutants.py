"""The harness of `make mutants`: faults are drawn alike each time, run, and are told from what is no fault."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import pytest

from benchmarks import faults
from benchmarks.mutants import Result, files_of, judged, run_tests

ROOT = Path(__file__).parents[1]

THING = '''"""A file to put faults into."""

LIMIT: int = 3


def least(numbers: list[int]) -> int:
    """The least + 1."""
    if not numbers:
        raise ValueError(f"none of {LIMIT + 1}")
    return min(numbers[0], numbers[1]) + 1
'''
TEST = "from thing import least\n\n\ndef test_least():\n    assert least([4, 5]) == 5\n"


def tree(folder: Path, source: str) -> Path:
    (folder / "tests").mkdir()
    (folder / "thing.py").write_text(source)
    (folder / "tests" / "thing_test.py").write_text(TEST)
    return folder


def test_faults_are_where_something_is_computed() -> None:
    found = faults.mutants("thing.py", THING)
    assert {(m.before, m.after) for m in found if faults.differs(THING, m)} == {
        ("LIMIT: int = 3", "LIMIT: int = 4"),
        ("LIMIT: int = 3", "LIMIT: int = 2"),
        ("if not numbers:", "if numbers:"),
        ("if not numbers:", "if not (not numbers):"),
        *(("return min(numbers[0], numbers[1]) + 1", f"return {after}") for after in (
            "max(numbers[0], numbers[1]) + 1", "(numbers[0]) + 1", "(numbers[1]) + 1", "min(numbers[1], numbers[1]) + 1",
            "min(numbers[0], numbers[2]) + 1", "min(numbers[0], numbers[0]) + 1", "min(numbers[0], numbers[1]) - 1",
            "min(numbers[0], numbers[1]) + 2", "min(numbers[0], numbers[1]) + 0",
        )),
    }  # fmt: skip


def test_draws_repeat_and_parse() -> None:
    files = faults.sources(ROOT)["timing"][:1]
    drawn = list(itertools.islice(faults.draw(ROOT, files, 5), 20))
    assert [m.id for m in drawn] == [m.id for m in itertools.islice(faults.draw(ROOT, files, 5), 20)]
    assert [m.id for m in drawn] != [m.id for m in itertools.islice(faults.draw(ROOT, files, 6), 20)]
    assert len({m.id for m in drawn}) == 20
    for mutant in drawn:
        source = (ROOT / mutant.file).read_text(encoding="utf-8")
        assert ast.dump(ast.parse(mutant.apply(source))) != ast.dump(ast.parse(source))


def test_what_is_drawn_in_a_file_depends_on_its_functions_alone(tmp_path: Path) -> None:
    source = (ROOT / "ommatid" / "simulator" / "rates.py").read_text(encoding="utf-8")
    (tmp_path / "a.py").write_text(source)
    (tmp_path / "b.py").write_text(THING)
    both = list(faults.draw(tmp_path, ["a.py", "b.py"], 5))
    alone = list(faults.draw(tmp_path, ["a.py"], 5))
    assert [m.id for m in both if m.file == "a.py"] == [m.id for m in alone]
    assert all(faults.differs(THING if m.file == "b.py" else source, m) for m in both)
    assert len(both) - len(alone) == len(
        [m for m in faults.mutants("b.py", THING) if faults.differs(THING, m)]
    )
    functions = [m.function for m in alone]
    assert len(set(functions[: len(set(functions))])) == len(
        set(functions)
    )  # one in each before a second in any


@pytest.mark.parametrize("group", ["timing", "functional"])
def test_every_file_has_tests(group: str) -> None:
    files = faults.sources(ROOT)[group]
    assert files and all((ROOT / "tests" / f"{files_of(file)[0]}.py").exists() for file in files)


@pytest.mark.parametrize("old, new, outcome, how", [
    ("min(numbers[0], numbers[1])", "(numbers[0])", "survived", ""),
    ("min(", "max(", "caught", "failed"),
    ("if not numbers:", "while numbers:\n        pass\n    if not numbers:", "caught", "hung"),
])  # fmt: skip
def test_a_fault_is_found(tmp_path: Path, old: str, new: str, outcome: str, how: str) -> None:
    result = run_tests(tree(tmp_path, THING.replace(old, new)), ["thing_test"], cpu_seconds=3)
    assert (result.outcome, result.how) == (outcome, how)
    assert result.by == ("tests/thing_test.py::test_least" if how else "")


def test_a_fault_with_which_nothing_runs_does_not_count() -> None:
    log = "tests/a_test.py::test_a FAILED [50%]\nE   NameError: mim\nFAILED tests/a_test.py::test_a - NameError: mim\n"
    assert judged(log, 1, 0) == Result("stillborn", "tests/a_test.py::test_a", "failed")
    assert judged("tests/a_test.py::test_a ", -11, 0) == Result(
        "caught", "tests/a_test.py::test_a", "crashed"
    )
