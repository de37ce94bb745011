"""Precision by tensor: mixtures in one session are those of onnxruntime, and the front is what programs measure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from ommatid.compiler.errors import CompileError
from ommatid.compiler.front import FrontOptions
from ommatid.compiler.precision import Both, Switched, plan_both
from ommatid.compiler.recipe import from_toml
from ommatid.isa.program_file import to_bytes
from ommatid.profiler import precision as module
from ommatid.profiler.front import drawing
from ommatid.profiler.precision import choose_precision
from ommatid.profiler.profile import profile
from ommatid.runtime.compile import compile_model
from tests import networks
from tests.networks import helper

Array = np.ndarray[Any, Any]
OPTIONS = FrontOptions(calibration=[networks.inputs(seed, size=24) for seed in range(3)])

PLAIN = replace(OPTIONS, method="minmax")  # which equalises nothing, so that tensors keep their names


def network() -> onnx.ModelProto:
    """Convolutions, a gate and a sum; a channel of the first has a hundred times the range of the others."""
    generator = np.random.default_rng(1)
    first = generator.standard_normal((16, 3, 3, 3)).astype(np.float32)
    first[0] *= 100
    weights = {"w": first, "v": generator.standard_normal((16, 16, 1, 1)).astype(np.float32) / 4}
    weights["v"][:, 0] /= 100
    weights["u"] = generator.standard_normal((5, 16, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "v"], ["b"], "second"),
        helper.make_node("Sigmoid", ["b"], ["s"], "gate"),
        helper.make_node("Add", ["b", "s"], ["t"], "sum"),
        helper.make_node("Conv", ["t", "u"], ["y"], "third", pads=[1] * 4),
    ]
    return networks.model(nodes, {"x": [1, 3, 24, 24]}, {"y": [1, 5, 24, 24]}, weights)


@pytest.fixture(scope="module")
def both() -> Both:
    return plan_both(network(), PLAIN)


@pytest.mark.parametrize("names", [(), ("r",), ("b", "t"), ("x", "r", "b", "s", "t", "y")])
def test_a_mixture_is_that_of_onnxruntime(both: Both, names: tuple[str, ...], tmp_path: Path) -> None:
    switched = Switched(both, PLAIN, 3)
    path = tmp_path / "qdq.onnx"
    compile_model(network(), plan=both.mixed(names), save_qdq=str(path))
    qdq = onnx.load(path)
    kinds = {i.name: i.data_type for i in qdq.graph.initializer}
    wide = {
        n.input[0].removesuffix("_QuantizeLinear_Input") for n in qdq.graph.node
        if n.op_type == "QuantizeLinear" and kinds[n.input[2]] == onnx.TensorProto.INT16
    }  # fmt: skip
    assert wide == set(names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    step = both.eight.choices["y"]
    for feeds, (found,) in zip(OPTIONS.calibration or (), switched.outputs(names), strict=True):
        wanted = session.run(None, feeds)[0]
        off = abs(found - wanted)
        # the session's biases are rounded as with 16 bits: some elements are a step apart
        assert (
            off.max() <= 1.01 * (step.high - step.low) / 255
            and (off > 1e-3 * abs(wanted).max()).mean() < 0.05
        )


def test_the_front_is_what_programs_measure(both: Both) -> None:
    front = choose_precision(network(), "ommatid-256", 2, OPTIONS, {})
    cycles, levels = [p.cycles for p in front.points], [p.sqnr_db for p in front.points]
    assert cycles == sorted(set(cycles)) and levels == sorted(set(levels))
    assert front.eight in front.points and len(front.points) > 2
    assert front.sixteen.sqnr_db > front.eight.sqnr_db + 3
    assert front.wanted_db == front.sixteen.sqnr_db - 3
    assert front.chosen.sqnr_db >= front.wanted_db
    assert all(p.sqnr_db < front.wanted_db for p in front.points if p.cycles < front.chosen.cycles)
    program = compile_model(network(), "ommatid-256", plan=front.plan)
    assert profile(program).cycles == front.chosen.cycles
    recipe = from_toml(program.info["recipe"])
    assert {n for n, t in recipe.tensors.items() if t.precision == "int16"} >= front.chosen.names
    again = compile_model(network(), "ommatid-256", recipe=recipe, calibration=OPTIONS.calibration)
    assert np.array_equal(again.instructions, program.instructions)
    assert to_bytes(again) != b"" and np.array_equal(again.constants, program.constants)
    picture = drawing(front)
    assert picture.count("x") == 1 + picture.count("extra") and f"{front.sixteen.sqnr_db:.1f} dB" in picture


def test_a_wanted_level() -> None:
    low = choose_precision(network(), "ommatid-256", 2, OPTIONS, {}, wanted_db=1.0)
    assert low.chosen == low.eight
    high = choose_precision(network(), "ommatid-256", 2, OPTIONS, {}, wanted_db=500.0)
    assert high.chosen == high.points[-1]


def test_a_quantised_model_is_refused(both: Both, tmp_path: Path) -> None:
    path = tmp_path / "qdq.onnx"
    compile_model(network(), plan=both.eight, save_qdq=str(path))
    with pytest.raises(CompileError, match="is quantised already"):
        plan_both(str(path), OPTIONS)


def test_a_layer_is_priced_by_its_own_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where layers are made together cycles are not each one's own: the order comes of programs that keep them apart."""
    levels = []

    def recorded(source: Any, target: Any, optimize: int, **options: Any) -> Any:
        levels.append(optimize)
        return compile_model(source, target, optimize, **options)

    monkeypatch.setattr(module, "compile_model", recorded)
    choose_precision(network(), "ommatid-256", 2, PLAIN, {})
    assert levels[:2] == [1, 1] and set(levels[2:]) == {2}
