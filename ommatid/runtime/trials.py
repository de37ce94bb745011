"""What trials of the compiler's search cost, on disk: compiling again, or a changed network, tries what is new."""

from __future__ import annotations

import contextlib
from collections import UserDict
from pathlib import Path

from ommatid.compiler.cache_folder import cache_folder
from ommatid.isa.program_file import write_whole
from ommatid.runtime.cache import code_digest

#: Lines that a file keeps, of 50 bytes or so: when it has twice as many, the older ones go.
KEPT = 50_000


class StoredTrials(UserDict[str, float]):
    """Costs by outline, each written to a file at once, so that a search that was stopped goes on where it was.

    Several processes may add lines; a line that is damaged counts as not there. Where the file cannot be written they are
    in memory alone.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        with contextlib.suppress(OSError):
            lines = path.read_text("ascii", "replace").split("\n")[:-1]  # what has no end was cut off
            for line in lines[-KEPT:]:
                with contextlib.suppress(ValueError):
                    outline, cost = line.split()
                    self.data[outline] = float.fromhex(cost)
            if len(lines) > 2 * KEPT:
                write_whole(path, "".join(map(_line, *zip(*self.data.items(), strict=True))).encode())

    def __setitem__(self, outline: str, cost: float) -> None:
        super().__setitem__(outline, cost)
        with contextlib.suppress(OSError), self.path.open("a") as file:
            file.write(_line(outline, cost))


def _line(outline: str, cost: float) -> str:
    return f"{outline} {float(cost).hex()}\n"


def stored_trials() -> StoredTrials:
    """Those of this version of the code."""
    folder = cache_folder()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return StoredTrials(folder / f"trials-{code_digest('isa', 'compiler', 'simulator')[:32]}.txt")
