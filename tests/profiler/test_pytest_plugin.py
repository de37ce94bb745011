"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from tests import networks

pytest_plugins = ["pytester"]

TESTS = """
import numpy as np

def test_budgets(npu):
    net = npu("small.onnx", method="minmax")
    net.assert_cycles(max=10**6).assert_dram_bytes(max=10**6).assert_energy_uj(max=1000).assert_latency_ms(max=1)
    net.assert_sram_peak_bytes(max=2**20).assert_on_npu()
    (y,) = net.run({"x": np.ones((1, 3, 8, 8), np.float32)})
    assert y.shape == (1, 5, 8, 8)

def test_too_slow(npu):
    npu("small.onnx", method="minmax").assert_cycles(max=10)

def test_on_the_host(npu):
    npu("host.onnx", method="minmax").assert_on_npu()

def test_held(npu):
    npu("small.onnx", method="minmax").assert_baseline()

def test_held_of_another(npu):
    npu("host.onnx", "other", method="minmax").assert_baseline()
"""


@pytest.fixture
def ran(pytester: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("OMMATID_CACHE_DIR", str(tmp_path))
    onnx.save(networks.convolution(), pytester.path / "small.onnx")
    onnx.save(networks.with_host_part(), pytester.path / "host.onnx")
    pytester.makepyfile(TESTS)
    plugin = ("-p", "ommatid.profiler.pytest_plugin", "-p", "no:cacheprovider")
    return lambda *arguments: pytester.runpytest_inprocess(*plugin, *arguments)


def test_budgets_and_baselines(ran: Any, pytester: Any) -> None:
    found = ran("-n", "0")
    found.assert_outcomes(passed=1, failed=2, skipped=2)
    found.stdout.fnmatch_lines(["*small: cycles * > 10; most cycles: *", "*host: on the CPU: celu*"])
    ran("--ommatid-baseline", "b.toml", "-k", "held").assert_outcomes(failed=2)
    ran("--ommatid-baseline", "b.toml", "--ommatid-update", "-k", "held").assert_outcomes(passed=2)
    assert "[networks.small.figures]" in (pytester.path / "b.toml").read_text()
    assert "[networks.other.figures]" in (pytester.path / "b.toml").read_text()
    ran("--ommatid-baseline", "b.toml", "-k", "held").assert_outcomes(passed=2)
    text = (pytester.path / "b.toml").read_text()
    (pytester.path / "b.toml").write_text(text.replace("cycles = ", "cycles = 1", 2))
    ran("--ommatid-baseline", "b.toml", "-k", "held").assert_outcomes(passed=2)  # an improvement
