"""explain and sweep on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def test_explain(ommatid: Any, files: Path) -> None:
    ran = ommatid("explain", files / "model.omm", "--json")
    assert ran.status == 0 and list(ran.json)[1:] == [
        "bound",
        "cycles",
        "latency_ms",
        "lost",
        "what_ifs",
        "lines",
    ]
    assert all(each["cycles"] > 0 and each["speedup"] > 0 for each in ran.json["what_ifs"])
    assert ommatid("explain", files / "model.omm").out.splitlines() == ran.json["lines"]
