"""Sweeps: every point is what a compilation by hand gives, whoever computes it and whatever dies meanwhile."""

from __future__ import annotations

import dataclasses
import multiprocessing
from pathlib import Path
from typing import Any

import onnx
import pytest

from ommatid.compiler.errors import CompileError
from ommatid.compiler.pipeline import compile_model
from ommatid.isa.target import load_target
from ommatid.profiler import sweep as module
from ommatid.profiler.profile import profile
from ommatid.profiler.sweep import Point, mark_pareto, sweep, sweep_csv, sweep_html
from tests.profiler.planted import PLANTED
from tests.profiler.regressions import chain

BASE = load_target("ommatid-256")
SETTINGS = {"sram_kib": [384, 1024], "dram_gb_s": [3.2, 6.4]}
OPTIONS = {"method": "minmax"}
pytestmark = pytest.mark.xdist_group("sweep")


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("OMMATID_CACHE_DIR", str(tmp_path / "cache"))
    onnx.save(chain(), tmp_path / "chain.onnx")
    onnx.save(PLANTED["mx"][0], tmp_path / "large.onnx")
    return [str(tmp_path / "chain.onnx"), str(tmp_path / "large.onnx")]


def in_turn(jobs: Any, build: Any, processes: Any) -> Any:
    """Points one after the other, in this process."""
    networks = build()
    return (module.compute(job, networks[job.model]) for job in jobs)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points are computed in this process."""
    monkeypatch.setattr(module, "_in_pool", in_turn)


def figures(points: Any) -> list[tuple[Any, ...]]:
    return [(p.network, p.target, p.cycles, p.energy_uj, p.area_mm2, p.pareto, p.reason) for p in points]


def test_points_are_those_of_compilations_by_hand(models: list[str], here: None) -> None:
    found = sweep(models, BASE, SETTINGS, OPTIONS, optimize=1)
    assert found.computed == len(found.points) == 8
    last = found.points[-1]
    assert last.settings == {"sram_kib": 1024, "dram_gb_s": 6.4} and last.network == "large"
    chip = dataclasses.replace(BASE, sram_kib=1024, dram_gb_s=6.4)
    assert last.cycles == profile(compile_model(models[1], chip, 1, **OPTIONS)).cycles  # type: ignore[arg-type]
    assert sweep_csv(found).splitlines()[0] == (
        "network,target,sram_kib,dram_gb_s,cycles,latency_ms,energy_uj,area_mm2,pareto,reason"
    )
    page = sweep_html(found)
    assert "large" in page and f"{last.cycles:,}" in page


def test_only_new_points_are_computed(models: list[str], here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sweep(models, BASE, SETTINGS, OPTIONS)
    assert sweep(models, BASE, SETTINGS, OPTIONS).computed == 0
    more = sweep(models, BASE, SETTINGS | {"dram_gb_s": [3.2, 6.4, 12.8]}, OPTIONS)
    assert more.computed == 4 and len(more.points) == 12
    again = [p for p in more.points if p.settings["dram_gb_s"] != 12.8]
    assert [p.cycles for p in again] == [p.cycles for p in first.points]
    interrupted: list[int] = []

    def stop(done: int, total: int) -> None:
        interrupted.append(done)
        if len(interrupted) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(models, BASE, {"sram_kib": [256, 300, 320]}, OPTIONS, progress=stop)
    assert sweep(models, BASE, {"sram_kib": [256, 300, 320]}, OPTIONS).computed == 4


def test_what_cannot_be_is_a_point_with_a_reason(models: list[str], here: None, tmp_path: Path) -> None:
    found = sweep(models[:1], BASE, {"sram_banks": [8, 9], "sram_kib": [32, 384]}, OPTIONS)
    reasons = [p.reason for p in found.points]
    assert (
        "power of two" in reasons[2]
        and not reasons[1]
        and not any(p.pareto for p in found.points if p.reason)
    )
    with pytest.raises(CompileError, match=r"none\.onnx"):
        sweep([str(tmp_path / "none.onnx")], BASE, {}, OPTIONS)


@pytest.mark.long
def test_a_worker_that_is_killed_changes_nothing(models: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if not killed:
            (worker, *_) = multiprocessing.active_children()
            killed.append(worker.pid or 0)
            worker.kill()

    found = sweep(models[:1], BASE, SETTINGS, OPTIONS, processes=2, progress=kill)
    assert killed and found.computed == 4
    monkeypatch.setattr(module, "_kept", lambda key: None)
    monkeypatch.setattr(module, "_in_pool", in_turn)
    assert figures(sweep(models[:1], BASE, SETTINGS, OPTIONS).points) == figures(found.points)


@pytest.mark.long
def test_a_cluster_of_processes(models: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        found = sweep(models[:1], BASE, SETTINGS, OPTIONS, scheduler=cluster.scheduler_address)
    assert found.computed == 4
    monkeypatch.setattr(module, "_kept", lambda key: None)
    monkeypatch.setattr(module, "_in_pool", in_turn)
    assert figures(sweep(models[:1], BASE, SETTINGS, OPTIONS).points) == figures(found.points)


def test_pareto() -> None:
    def point(network: str, ms: float, uj: float, area: float) -> Point:
        return Point(network, "", {}, area, 1, ms, uj)

    points = [
        point("a", 1, 5, 1), point("a", 2, 4, 1), point("a", 2, 5, 1), point("a", 1, 5, 1), point("a", 1, 5, 2),
        point("b", 9, 9, 9), Point("b", "", {}, 1.0, reason="no"),
    ]  # fmt: skip
    assert [p.pareto for p in mark_pareto(points)] == [True, True, False, True, False, True, False]
