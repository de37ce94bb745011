"""CI's judgement: it finds what is planted, names the layer, and is silent where nothing changed."""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ommatid.compiler.front import build_network
from ommatid.compiler.pipeline import compile_network
from ommatid.isa.target import Target, load_target
from ommatid.profiler.baseline import (
    TOLERANCE,
    Baseline,
    BaselineError,
    Entry,
    entry_of,
    read_baseline,
    write_baseline,
)
from ommatid.profiler.ci_report import ci_markdown, github_annotations, junit_xml
from ommatid.profiler.measure import measure
from ommatid.profiler.regression import Verdict, judge, measured_entry
from ommatid.runtime.compile import compile_model
from ommatid.simulator.kernels.multiply import available
from tests import networks
from tests.profiler.regressions import FRONT, REGRESSIONS, chain, residual

TARGET = load_target("ommatid-256")
NETWORKS = {"chain": chain, "residual": residual}


class Base:
    """A network, and its entry in a baseline."""

    def __init__(self, model: onnx.ModelProto, target: Target) -> None:
        self.model, self.target = model, target
        program = compile_network(build_network(model, FRONT), target)
        self.entry = entry_of("", {}, program, measure(program))

    def verdict(self, program: Any) -> Verdict:
        return judge("n", self.entry, entry_of("", {}, program, measure(program)), dict(TOLERANCE))


@pytest.fixture(scope="module", params=NETWORKS)
def base(request: Any) -> Base:
    return Base(NETWORKS[request.param](), TARGET)


@pytest.mark.parametrize("what", REGRESSIONS)
def test_what_is_planted_is_found_in_its_layer(base: Base, what: str) -> None:
    plant, outputs_change = REGRESSIONS[what]
    rng = np.random.default_rng(zlib.crc32(what.encode()))
    layers = ("conv1", "conv3") if what == "window one pixel down" else ("conv1", "conv2", "conv3")
    layer = str(rng.choice(layers))
    network = build_network(base.model, FRONT)
    network = dataclasses.replace(network, tensors=dict(network.tensors))
    more = {"model": base.model} if what == "on the host" else {}
    verdict = base.verdict(plant(network, base.target, layer, rng, **more))
    assert verdict.status == "regressed", what
    assert verdict.layers[0].partition("@")[0] == layer, verdict.lines()
    assert outputs_change == any(f.what.startswith("output ") for f in verdict.findings)


def test_silent_on_every_kernel_path(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in available():
        monkeypatch.setenv("OMMATID_KERNELS", path)
        program = compile_network(build_network(base.model, FRONT), base.target)
        verdict = base.verdict(program)
        assert verdict.status == "ok" and not verdict.lines(), path


def test_another_chip_and_an_improvement(base: Base) -> None:
    faster = dataclasses.replace(base.target, dram_gb_s=2 * base.target.dram_gb_s)
    other = Base(base.model, faster)
    verdict = judge("n", base.entry, other.entry, dict(TOLERANCE))
    assert verdict.findings[0].what == "target" and verdict.status == "regressed"
    same = dataclasses.replace(other.entry, target_sha256=base.entry.target_sha256)
    better = judge("n", base.entry, same, dict(TOLERANCE))
    assert better.status == "improved" and better.ok and "cycles" in better.lines()[0]
    worse = judge("n", same, base.entry, dict(TOLERANCE))
    assert worse.status == "regressed"
    assert (
        judge("n", same, base.entry, TOLERANCE | {"cycles_percent": 1000.0, "energy_uj_percent": 1.0}).status
        != "regressed"
    )


def test_a_file_is_read_as_it_was_written(base: Base, tmp_path: Path) -> None:
    entry = dataclasses.replace(
        base.entry, model="m.onnx", compile={"method": "minmax", "shapes": {"x": [1, 2]}}
    )
    baseline = Baseline(networks={"a b": entry, "c": Entry(model="c.onnx")})
    write_baseline(tmp_path / "b.toml", baseline)
    assert read_baseline(tmp_path / "b.toml") == baseline
    assert read_baseline(tmp_path / "none.toml") == Baseline()
    for bad in ("a b", 'schema = "x/1"', "[tolerance]\nfps = 1", "[networks.a]\nmodle = 1"):
        (tmp_path / "bad.toml").write_text(bad)
        with pytest.raises(BaselineError, match=r"bad\.toml"):
            read_baseline(tmp_path / "bad.toml")


def test_signal_over_noise_is_measured() -> None:
    entry = measured_entry(networks.convolution(), {"method": "minmax"})
    program = compile_model(networks.convolution(), method="minmax")
    assert 20 < entry.figures["sqnr_db"] < 90 and entry.figures["instructions"] == len(program.instructions)
    lower = dataclasses.replace(entry, figures=entry.figures | {"sqnr_db": entry.figures["sqnr_db"] - 1})
    assert judge("n", entry, lower, dict(TOLERANCE)).status == "regressed"
    assert judge("n", lower, entry, dict(TOLERANCE)).status == "improved"


def test_reports(base: Base) -> None:
    import xml.etree.ElementTree as tree

    slower = dataclasses.replace(base.entry, figures=base.entry.figures | {"cycles": 1})
    verdicts = [
        judge("a|b", slower, base.entry, dict(TOLERANCE)),
        judge("new", None, base.entry, dict(TOLERANCE)),
    ]
    suite = tree.fromstring(junit_xml(verdicts))
    assert suite.attrib["failures"] == "2" and len(suite.findall("testcase/failure")) == 2
    assert "a\\|b" in ci_markdown(verdicts) and "ci update" in ci_markdown(verdicts)
    lines = github_annotations(verdicts, "tests/b,1.toml")
    assert all(line.startswith("::error file=tests/b%2C1.toml,title=") for line in lines) and len(lines) == 2
