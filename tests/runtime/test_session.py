"""``InferenceSession``: onnxruntime's calls, onnxruntime's results on the same quantised model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from ommatid.isa.program_file import to_bytes
from ommatid.runtime.session import InferenceSession, RunError
from ommatid.simulator.timing import simulate
from tests import networks
from tests.runtime.conftest import Both


def one_step(pair: Both) -> float:
    """The output's scale."""
    tensor = pair.program.outputs[0].tensor
    return next(p.tensor.quantization.scale for p in pair.program.placed if p.tensor.name == tensor)


@pytest.mark.parametrize("seed", range(3))
def test_the_same_as_onnxruntime(npu: Both, seed: int) -> None:
    feeds = networks.inputs(100 + seed)
    ours = InferenceSession(npu.program).run(None, feeds)[0]
    theirs = npu.reference.run(None, feeds)[0]
    assert ours.dtype == theirs.dtype and np.abs(ours - theirs).max() < one_step(npu) / 2


def test_with_a_part_on_the_host(mixed: Both) -> None:
    assert [p.placement for p in mixed.program.partitions] == ["npu", "cpu", "npu"]
    feeds = networks.inputs(7)
    ours = InferenceSession(mixed.program).run(None, feeds)[0]
    theirs = mixed.reference.run(None, feeds)[0]
    assert np.abs(ours - theirs).max() <= 1.01 * one_step(mixed)


def test_descriptions_are_onnxruntimes(npu: Both) -> None:
    ours, theirs = InferenceSession(npu.program), npu.reference
    for a, b in ((ours.get_inputs(), theirs.get_inputs()), (ours.get_outputs(), theirs.get_outputs())):
        assert [(p.name, p.shape, p.type) for p in a] == [(p.name, p.shape, p.type) for p in b]
    assert ours.get_modelmeta().custom_metadata_map["alphabet"] == "abc\ndef"
    assert ours.get_providers() == ["OmmatidExecutionProvider"]


def test_outputs_by_name(npu: Both) -> None:
    session = InferenceSession(npu.program)
    feeds = networks.inputs()
    assert len(session.run(["y"], feeds)) == 1 and np.array_equal(
        session.run([], feeds)[0], session.run(["y"], feeds)[0]
    )
    with pytest.raises(RunError, match="'z'"):
        session.run(["z"], feeds)


@pytest.mark.parametrize("batch", [2, 3])
def test_a_larger_batch_runs_in_passes(npu: Both, batch: int) -> None:
    session = InferenceSession(npu.program)
    feeds = networks.inputs(5, batch)
    whole = session.run(None, feeds)[0]
    cycles = session.cycles
    parts = [session.run(None, {"x": feeds["x"][i : i + 1]})[0] for i in range(batch)]
    assert np.array_equal(whole, np.concatenate(parts)) and cycles == batch * session.cycles > 0


def test_a_last_pass_that_is_not_full(tmp_path: Path) -> None:
    samples = [networks.inputs(seed, batch=2) for seed in range(2)]
    options: dict[str, Any] = {"shapes": {"x": (2, 3, 8, 8)}, "calibration": samples}
    session = InferenceSession(networks.convolution(batch="batch"), **options)
    x = networks.inputs(9, batch=3)["x"]
    whole = session.run(None, {"x": x})[0]
    last = session.run(None, {"x": np.concatenate([x[2:], x[2:]])})[0]
    assert whole.shape[0] == 3 and np.array_equal(whole[2], last[0])


def test_cycles_are_those_of_the_timing_executor(npu: Both) -> None:
    session = InferenceSession(npu.program)
    session.run(None, networks.inputs())
    assert session.cycles == sum(simulate(npu.program, p.begin, p.end).cycles for p in npu.program.partitions)


def test_a_second_run_does_not_see_the_first(npu: Both) -> None:
    session = InferenceSession(npu.program)
    first, _, again = (session.run(None, networks.inputs(seed))[0] for seed in (1, 2, 1))
    assert np.array_equal(first, again)


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, "'x' is missing"),
        ({"x": np.zeros((1, 3, 8, 8))}, "float64"),
        ({"x": np.zeros((1, 3, 8, 7), np.float32)}, r"\[1, 3, 8, 7\]"),
        ({"x": np.zeros((3, 8, 8), np.float32)}, r"\[3, 8, 8\]"),
        ({"x": np.zeros((0, 3, 8, 8), np.float32)}, r"\[0, 3, 8, 8\]"),
        ({"x": np.zeros((1, 3, 8, 8), np.float32), "z": np.zeros(1)}, "'z'"),
    ],
)
def test_feeds_that_do_not_fit(npu: Both, feeds: dict[str, Any], words: str) -> None:
    with pytest.raises(RunError, match=words):
        InferenceSession(npu.program).run(None, feeds)


def test_every_form_of_a_model(npu: Both, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("OMMATID_CACHE_DIR", str(tmp_path / "cache"))
    program, model = tmp_path / "m.omm", tmp_path / "m.onnx"
    npu.program.save(str(program))
    onnx.save(npu.qdq, model)
    wanted = InferenceSession(npu.program).run(None, networks.inputs())[0]
    forms = (str(program), program, to_bytes(npu.program), str(model), model, model.read_bytes(), npu.qdq)
    for form in forms:
        session = InferenceSession(form, onnxruntime.SessionOptions(), [("CPUExecutionProvider", {})])
        assert np.array_equal(session.run(None, networks.inputs())[0], wanted)


def test_a_network_on_the_npu_alone_needs_no_onnxruntime(npu: Both, tmp_path: Path) -> None:
    npu.program.save(str(tmp_path / "m.omm"))
    np.save(tmp_path / "x.npy", networks.inputs()["x"])
    code = (
        "import sys, numpy, ommatid\n"
        f"session = ommatid.InferenceSession({str(tmp_path / 'm.omm')!r})\n"
        f"session.run(None, {{'x': numpy.load({str(tmp_path / 'x.npy')!r})}})\n"
        "assert 'onnxruntime' not in sys.modules and 'onnx' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
