"""diff and ci on the command line, and the workflow files that use them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import xml.etree.ElementTree as tree
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from ommatid.compiler.pipeline import compile_model
from ommatid.isa.program_file import save
from ommatid.profiler.profile import profile
from tests import networks

EXAMPLES = Path(__file__).parents[2] / "examples" / "ci"


def test_diff(ommatid: Any, files: Path) -> None:
    printed = ommatid("profile", files / "model.omm", "--json").out
    Path("p.json").write_text(printed)
    other = compile_model(networks.convolution(), "ommatid-256", calibration=[networks.inputs()])
    save(other, "other.omm")
    same = ommatid("diff", files / "model.omm", "p.json", "--json", "--fail-on-change")
    assert same.status == 0 and not same.json["changed"]
    found = ommatid("diff", "p.json", "other.omm", "--json", "--fail-on-change")
    assert found.status == 1 and list(found.json) == [
        "schema",
        "before",
        "after",
        "changed",
        "total",
        "layers",
    ]
    assert found.json["total"]["cycles"] == [json.loads(printed)["cycles"], profile(other).cycles]
    assert ommatid("diff", "p.json", "other.omm").status == 0
    assert "| total |" in ommatid("diff", "p.json", "other.omm", "--markdown").out
    assert "no change" in ommatid("diff", "p.json", "p.json").out
    Path("bad.json").write_text("{}")
    for bad in ("bad.json", "missing.omm"):
        refused = ommatid("diff", bad, "p.json")
        assert refused.status == 2 and bad in refused.err


BASELINE = """
[networks.small]
model = "small.onnx"
[networks.small.compile]
calibration = "samples.npz"
"""


@pytest.fixture
def folder(ommatid: Any, files: Path) -> Any:
    """A folder with a model and a baseline that names it; the command to run there."""
    shutil.copy(files / "model.onnx", "small.onnx")
    shutil.copy(files / "samples.npz", "samples.npz")
    Path("baseline.toml").write_text(BASELINE)
    return ommatid


def test_ci(folder: Any) -> None:
    missing = folder("ci", "check", "--baseline", "baseline.toml", "--json")
    assert missing.status == 1 and not missing.json["ok"]
    assert (
        missing.json["networks"][0]["status"] == "missing"
        and "ci update" in missing.json["networks"][0]["message"]
    )
    assert folder("ci", "update", "--baseline", "baseline.toml", "-q").status == 0
    text = Path("baseline.toml").read_text()
    assert "sqnr_db" in text and "[networks.small.layers]" in text and len(text) < 3000
    checked = folder("ci", "check", "--baseline", "baseline.toml", "--json")
    assert checked.status == 0 and list(checked.json) == ["schema", "action", "ok", "networks"]
    assert [n["status"] for n in checked.json["networks"]] == ["ok"]
    model = onnx.load("small.onnx")
    (weights,) = [w for w in model.graph.initializer if w.name == "v"]
    weights.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weights), "v"))
    onnx.save(model, "small.onnx")
    reports = ("--junit-xml", "r.xml", "--markdown", "r.md", "--github")
    other = folder("ci", "check", "small", "--baseline", "baseline.toml", *reports)
    assert (
        other.status == 1
        and "output 'y'" in other.out
        and "::error file=baseline.toml,title=small" in other.out
    )
    assert (
        tree.parse("r.xml").getroot().attrib["failures"] == "1"
        and "| small | regressed |" in Path("r.md").read_text()
    )
    table = folder("ci", "check", "--baseline", "baseline.toml", "--json").json
    assert table["networks"][0]["layers"] == ["second"]
    onnx.save(networks.with_host_part(), "new.onnx")
    assert folder("ci", "check", "new", "--baseline", "baseline.toml").status == 1
    assert folder("ci", "update", "new.onnx", "--baseline", "baseline.toml", "-q").status == 0
    assert folder("ci", "check", "new", "--baseline", "baseline.toml").status == 0


def test_what_cannot_be_compiled_and_what_is_not_there(folder: Any) -> None:
    assert folder("ci", "update", "--baseline", "baseline.toml", "-q").status == 0
    Path("small.onnx").write_bytes(b"no model")
    broken = folder("ci", "check", "--baseline", "baseline.toml", "--json")
    assert broken.status == 1 and broken.json["networks"][0]["status"] == "error"
    nothing = folder("ci", "check", "--baseline", "nothing.toml")
    assert nothing.status == 2 and "names no network" in nothing.err
    refused = folder("ci", "update", "nobody", "--baseline", "baseline.toml")
    assert refused.status == 2 and "nobody" in refused.err


def commands(file: Path) -> list[list[str]]:
    """The ommatid commands of a workflow file."""
    lines = [re.sub(r"^\s*(- run:|-)?\s*", "", line) for line in file.read_text().splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("ommatid ")]


@pytest.mark.parametrize("name", ["github.yml", "gitlab.yml"])
def test_workflows(folder: Any, name: str) -> None:
    assert folder("ci", "update", "--baseline", "baseline.toml", "-q").status == 0
    found = commands(EXAMPLES / name)
    assert found
    for command in found:
        ran = folder(*command)
        assert ran.status == 0, (command, ran.err)
