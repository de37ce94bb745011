"""The pytest plugin: ``npu("model.onnx").assert_cycles(max=...)``, and baselines with ``--ommatid-baseline F``.

pytest loads this file at every start: what is heavy is imported when the fixture is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


class Network:
    """A compiled network, with budgets to assert; figures are measured when they are first asked for."""

    def __init__(self, model: Any, name: str, config: Any, options: dict[str, Any]) -> None:
        from ommatid.isa.program import Program
        from ommatid.runtime.cache import compiled

        self.name, self._config, self._options, self._model = name, config, options, model
        self.program: Program = model if isinstance(model, Program) else compiled(model, options)
        self._measured: dict[str, Any] = {}

    @property
    def profile(self) -> Any:
        """The profile."""
        from ommatid.profiler.profile import profile

        if "profile" not in self._measured:
            self._measured["profile"] = profile(self.program)
        return self._measured["profile"]

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        """The outputs, bit by bit those of the chip."""
        from ommatid.runtime.session import InferenceSession

        return InferenceSession(self.program).run(None, feeds)

    def assert_cycles(self, max: int) -> Network:
        """Fail if a run takes more; the costliest layers are named."""
        return self._at_most("cycles", self.profile.cycles, max)

    def assert_latency_ms(self, max: float) -> Network:
        """Fail if a run takes longer."""
        return self._at_most("latency_ms", self.profile.latency_ms, max)

    def assert_dram_bytes(self, max: int) -> Network:
        """Fail if a run moves more."""
        return self._at_most("dram_bytes", sum(row.dram_bytes for row in self.profile.rows), max)

    def assert_sram_peak_bytes(self, max: int) -> Network:
        """Fail if more of the SRAM is in use at once."""
        return self._at_most("sram_peak_bytes", sorted(r.sram_peak_bytes for r in self.profile.rows)[-1], max)

    def assert_energy_uj(self, max: float) -> Network:
        """Fail if a run takes more."""
        return self._at_most("energy_uj", sum(self.profile.energy_uj.values()), max)

    def assert_on_npu(self) -> Network:
        """Fail if a node runs on the CPU."""
        host = [node.name for node in self.program.nodes if node.fate == "cpu" and node.op not in _EDGES]
        assert not host, f"{self.name}: on the CPU: {', '.join(host)}"
        return self

    def assert_baseline(self) -> Network:
        """Fail if this differs from the baseline, or is dearer than its tolerances allow.

        With ``--ommatid-update`` the network's entry is written instead.
        """
        from ommatid.profiler.baseline import read_baseline, write_baseline
        from ommatid.profiler.regression import judge, measured_entry

        file = self._config.getoption("--ommatid-baseline")
        if not file:
            pytest.skip("no --ommatid-baseline is given")
        plain = {
            key: value for key, value in self._options.items() if isinstance(value, str | int | float | bool)
        }
        now = measured_entry(self._model, self._options, program=self.program)
        now = type(now)(**{**vars(now), "compile": plain})
        file = self._config.rootpath / file
        baseline = read_baseline(file)
        if self._config.getoption("--ommatid-update"):
            with _locked(file):
                write_baseline(file, read_baseline(file).updated(self.name, now))
            return self
        verdict = judge(self.name, baseline.networks.get(self.name), now, baseline.tolerance, str(file))
        assert verdict.ok, "\n".join([f"{self.name} {verdict.status}", *verdict.lines()])
        return self

    def _at_most(self, what: str, value: float, most: float) -> Network:
        if value > most:
            rows = sorted(self.profile.rows, key=lambda row: -row.cycles)[:3]
            named = ", ".join(f"{row.name} {row.cycles:,}" for row in rows)
            raise AssertionError(f"{self.name}: {what} {value:,} > {most:,}; most cycles: {named}")
        return self


#: The host quantises inputs and dequantises outputs.
_EDGES = ("QuantizeLinear", "DequantizeLinear")


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One process at a time: pytest-xdist runs several."""
    import fcntl

    name = hashlib.sha256(os.fsencode(file.resolve())).hexdigest()[:16]
    with open(Path(tempfile.gettempdir(), f"ommatid-{name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def pytest_addoption(parser: Any) -> None:
    """--ommatid-baseline and --ommatid-update."""
    group = parser.getgroup("ommatid")
    group.addoption(
        "--ommatid-baseline", metavar="F.toml", help="what npu(...).assert_baseline() compares with"
    )
    group.addoption("--ommatid-update", action="store_true", help="write the baseline instead of comparing")


@pytest.fixture
def npu(request: Any) -> Callable[..., Network]:
    """Compile a model (path, ModelProto or Program; options as ``ommatid.compile``): its budgets to assert."""

    def make(model: Any, name: str | None = None, **options: Any) -> Network:
        shown = name or (Path(model).stem if isinstance(model, str | Path) else request.node.name)
        return Network(model, shown, request.config, options)

    return make
