"""Every golden file belongs to a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden import check_golden

TESTS = Path(__file__).parent


def orphans(folder: Path) -> list[str]:
    """Golden files below ``folder`` that no test file names."""
    found = []
    for path in sorted(folder.glob("**/golden/*")):
        module, _, name = path.name.partition("-")
        test = path.parents[1] / f"test_{module}.py"
        if not test.exists() or f'"{name}"' not in test.read_text(encoding="utf-8"):
            found.append(str(path.relative_to(folder)))
    return found


def test_every_golden_file_has_a_test() -> None:
    assert orphans(TESTS) == []


def test_a_file_without_a_test_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOLDEN", "1")
    test = tmp_path / "isa" / "test_thing.py"
    test.parent.mkdir()
    test.write_text('check_golden(__file__, "known.txt", "")')
    check_golden(str(test), "known.txt", "text")
    check_golden(str(test), "other.txt", "text")
    assert orphans(tmp_path) == ["isa/golden/thing-other.txt"]


def test_a_changed_text_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOLDEN", raising=False)
    with pytest.raises(AssertionError, match="make golden"):
        check_golden(str(tmp_path / "test_thing.py"), "a.txt", "text")
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "thing-a.txt").write_text("old")
    with pytest.raises(AssertionError, match="make golden"):
        check_golden(str(tmp_path / "test_thing.py"), "a.txt", "text")
