"""What is compiled and kept on disk is never taken for other sources."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import pytest

import ommatid
from ommatid.isa.compiled import _imports, entry, sources

MODULES = {
    "__init__.py": "",
    "constants.py": "FACTOR = 3\n",
    "inner.py": "from ommatid.isa.compiled import kernel\n\n\n@kernel\ndef inner(x):\n    return x + 1\n",
    "alone.py": "",
    "outer.py": (
        "from ommatid.isa.compiled import entry\nfrom pack import constants\nfrom pack.inner import (\n    inner,\n)\n\n\n"
        "@entry\ndef outer(x):\n    return constants.FACTOR * inner(x)\n\n\nprint(outer(1), len(outer.stats.cache_hits))\n"
    ),
}


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """A package of two compiled functions, one of which calls the other with a constant of a third module."""
    folder = tmp_path / "pack"
    folder.mkdir()
    for name, text in MODULES.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def run(pack: Path) -> list[int]:
    """What ``outer`` gives in a new process, and how often its code was found on disk."""
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(pack.parent / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-c", "import pack.outer"]
    path = os.pathsep.join([str(pack.parent), *filter(None, sys.path)])
    done = subprocess.run(
        command,
        cwd=pack.parent,
        env={**environment, "PYTHONPATH": path},
        check=True,
        capture_output=True,
        text=True,
    )
    return [int(number) for number in done.stdout.split()]


def test_code_is_kept_until_a_module_changes_that_it_holds(pack: Path) -> None:
    assert run(pack) == [6, 0]
    assert run(pack) == [6, 1]
    (pack / "alone.py").write_text("# of no concern\n", encoding="utf-8")
    assert run(pack) == [6, 1]
    (pack / "constants.py").write_text("FACTOR = 5\n", encoding="utf-8")
    assert run(pack) == [10, 0]
    inner = MODULES["inner.py"].replace("x + 1", "x + 2")
    (pack / "inner.py").write_text(inner, encoding="utf-8")
    assert run(pack) == [15, 0]
    assert run(pack) == [15, 1]


@pytest.mark.parametrize("module", ["rates", "tokens"])
def test_the_event_loop_is_compiled_anew_for_what_it_holds(tmp_path: Path, module: str) -> None:
    package = tmp_path / "ommatid"
    shutil.copytree(Path(ommatid.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    loop = package / "simulator" / "events.py"
    before = sources(loop)
    with (package / "simulator" / f"{module}.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    _imports.cache_clear()
    assert sources(loop) != before


def test_what_names_types_that_are_no_more_is_compiled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    @entry
    def double(x: int) -> int:
        return 2 * x

    kept: Any = double._cache
    index = Path(kept._cache_file._index_path)
    index.parent.mkdir(parents=True, exist_ok=True)
    index.write_bytes(pickle.dumps(kept._cache_file._version) + b"cno_such_module\nType\n.")
    assert double(21) == 42
    assert b"no_such_module" not in index.read_bytes()
