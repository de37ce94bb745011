"""explain and sweep on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.profiler.test_sweep import in_turn


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


def test_sweep(ommatid: Any, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ommatid.profiler import sweep

    monkeypatch.setattr(sweep, "_in_pool", in_turn)
    monkeypatch.setenv("OMMATID_CACHE_DIR", "cache")
    given = (
        "sweep",
        files / "model.onnx",
        "--set",
        "sram_kib=512,1024",
        "--set",
        "dram_gb_s=6.4,12.8",
        "-O1",
    )
    ran = ommatid(*given, "--html", "s.html", "--csv", "s.csv", "--json")
    assert (
        ran.status == 0 and list(ran.json) == ["schema", "points", "computed"] and ran.json["computed"] == 4
    )
    keys = "network target settings cycles latency_ms energy_uj area_mm2 pareto reason"
    assert all(list(point) == keys.split() for point in ran.json["points"])
    assert len(Path("s.csv").read_text().splitlines()) == 5 and "Pareto" in Path("s.html").read_text()
    assert "0 of 4 points were computed now" in ommatid(*given).out
    for bad in ("fps=1", "sram_kib=much", "sram_kib=1.5"):
        refused = ommatid("sweep", files / "model.onnx", "--set", bad)
        assert refused.status == 2 and "--set" in refused.err
