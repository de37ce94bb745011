"""Quantisation: the QDQ model is ONNX's standard form with the ranges of the samples, and onnxruntime agrees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper

from ommatid.compiler.canonicalize import canonicalize
from ommatid.compiler.errors import CompileError
from ommatid.compiler.exact_session import exact_options
from ommatid.compiler.form import form_of
from ommatid.compiler.front import FrontOptions
from ommatid.compiler.model import contributed_quantizers, import_model
from ommatid.compiler.observe import Feeds, Run, observe, when_needed
from ommatid.compiler.pipeline import compile_model
from ommatid.compiler.plan import make_plan, plan_and_form
from ommatid.compiler.quantize import quantize
from ommatid.compiler.readers import rectified
from ommatid.compiler.recipe import LayerRecipe, Recipe, TensorRecipe
from ommatid.compiler.search import JUDGES, Candidate, Search, Verdict
from ommatid.runtime.session import InferenceSession
from tests import networks
from tests.compiler.canonical import check_shapes
from tests.compiler.test_equalize import uneven

Array = np.ndarray[Any, Any]
SAMPLES = [networks.inputs(seed) for seed in range(4)]


def node(op: str, inputs: str, output: str, **attributes: Any) -> Any:
    return networks.helper.make_node(op, inputs.split(), [output], f"{op} {output}", **attributes)


def quantised(made: onnx.ModelProto, save_qdq: str | None = None, **options: Any) -> onnx.ModelProto:
    options = {"calibration": SAMPLES} | options
    model = canonicalize(import_model(made))
    return ir.to_proto(quantize(model, make_plan(model, FrontOptions(**options)), save_qdq))


def run(made: onnx.ModelProto, feeds: dict[str, Array]) -> Array:
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    result: Array = session.run(None, feeds)[0]
    return result


def parameters(made: onnx.ModelProto, name: str) -> tuple[Array, Array]:
    """Scale and zero point of the QuantizeLinear or, for a weight, the DequantizeLinear of a tensor."""
    constants = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    for n in made.graph.node:
        if n.op_type in ("QuantizeLinear", "DequantizeLinear") and (
            name in (n.input[0], n.output[0]) or n.input[0].startswith(f"{name}_quantized")
        ):
            return constants[n.input[1]], constants[n.input[2]]
    raise KeyError(name)


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_ranges_of_activations_are_those_of_the_samples(kind: str) -> None:
    made = quantised(networks.convolution(), activations=kind, method="minmax")
    values = np.stack([s["x"] for s in SAMPLES])
    scale, zero = parameters(made, "x")
    assert zero.dtype == kind and scale.shape == zero.shape == ()
    assert scale == pytest.approx((values.max() - values.min()) / 255, rel=1e-3)
    low = scale * (np.iinfo(kind).min - float(zero))
    assert abs(low - values.min()) <= scale


def test_weights_are_symmetric_by_channel() -> None:
    source = networks.convolution()
    weights = numpy_helper.to_array(source.graph.initializer[0])
    apart = Recipe(layers={"second": LayerRecipe(equalize=False)})  # else its weights are others
    scale, zero = parameters(quantised(source, recipe=apart), "w")
    np.testing.assert_allclose(scale, np.abs(weights).max(axis=(1, 2, 3)) / 127, rtol=1e-2)
    assert zero.dtype == np.int8 and not zero.any()


def test_the_quantised_network_is_close() -> None:
    source = networks.convolution()
    for options in ({}, {"activations": "int8"}, {"method": "percentile"}, {"method": "entropy"}):
        made = quantised(source, **options)
        real, codes = run(source, SAMPLES[0]), run(made, SAMPLES[0])
        assert 10 * np.log10((real**2).sum() / ((real - codes) ** 2).sum()) > 15, options


def test_every_operator_of_the_npu_stands_between_codes() -> None:
    nodes = [node("Conv", "x w b", "c", pads=[1, 1, 1, 1]), node("Sigmoid", "c", "s"), node("Mul", "c s", "m"),
             node("MaxPool", "m", "p", kernel_shape=[2, 2]), node("GlobalAveragePool", "p", "y")]  # fmt: skip
    table = {t.name: numpy_helper.to_array(t) for t in networks.convolution().graph.initializer}
    source = networks.model(nodes, {"x": [1, 3, 8, 8]}, {"y": None}, {name: table[name] for name in "wb"})
    made = quantised(source)
    makers = {o: n for n in made.graph.node for o in n.output}
    for n in made.graph.node:
        if n.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            assert {makers[name].op_type for name in n.input} == {"DequantizeLinear"}, n.name
    assert makers["y"].op_type == "DequantizeLinear"


def test_concats_in_a_chain_share_one_range() -> None:
    """They cost nothing then: the first is read by the second; a part that is used elsewhere as well."""
    nodes = [node("Tanh", "x", "a"), node("Concat", "a x", "ax", axis=1), node("Concat", "ax a", "y", axis=1),
             node("Sigmoid", "ax", "s"), node("Concat", "s s", "z", axis=1)]  # fmt: skip
    source = networks.model(nodes, {"x": [1, 3, 8, 8]}, {"y": None, "z": None})
    made = quantised(source, method="minmax")
    shared = {name: tuple(map(float, parameters(made, name))) for name in ("a", "x", "ax", "y")}
    assert len(set(shared.values())) == 1 and parameters(made, "z")[0] < 0.01
    values = np.stack([s["x"] for s in SAMPLES])
    assert next(iter(shared.values()))[0] == pytest.approx(np.ptp(values) / 255, rel=1e-3)


def test_metadata_and_names_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "qdq.onnx"
    made = quantised(networks.convolution(), save_qdq=str(path))
    assert {p.key: p.value for p in made.metadata_props} == {"alphabet": "abc\ndef"}
    names = [n.name for n in made.graph.node]
    assert len(set(names)) == len(names) and {"first", "second"} <= set(names)
    saved = onnx.load(path)
    onnx.checker.check_model(saved)
    assert Counter(n.op_type for n in saved.graph.node) == Counter(n.op_type for n in made.graph.node)
    assert (run(saved, SAMPLES[1]) == run(made, SAMPLES[1])).all()


def test_the_same_every_time() -> None:
    texts = {quantised(networks.convolution()).SerializeToString(deterministic=True) for _ in range(2)}
    assert len(texts) == 1


def test_what_onnxruntime_cannot_run() -> None:
    source = networks.model(
        [networks.helper.make_node("Odd", ["x"], ["y"], "odd", domain="mine")], {"x": [1, 4]}, {"y": [1, 4]}
    )
    source.opset_import.append(networks.helper.make_opsetid("mine", 1))
    with pytest.raises(CompileError, match="onnxruntime cannot run the model for calibration"):
        quantised(source, calibration=[{"x": np.zeros((1, 4), np.float32)}])
    with pytest.raises(CompileError, match="no sample for input 'x'"):
        quantised(networks.convolution(), calibration=[{}])
    with pytest.raises(CompileError, match="unknown calibration method 'mean'"):
        quantised(networks.convolution(), method="mean")


def test_clamps_stay_where_a_zero_point_is_at_no_end() -> None:
    """Of 16 bits no rounding clamps what is below zero: Relu and Clip stay, in one piece with the convolution."""
    made = networks.convolution()
    clip = [node("Clip", "r low high", "k")]
    made.graph.node.insert(2, clip[0])
    made.graph.node[3].input[0] = "k"
    made.graph.initializer.extend(
        numpy_helper.from_array(np.float32(value), name) for name, value in (("low", 0.1), ("high", 2.0))
    )
    narrow, wide = (quantised(made, activations=kind, method="minmax") for kind in ("uint8", "int16"))
    assert {"Relu", "Clip"} & {n.op_type for n in narrow.graph.node} == {"Clip"}  # 0, too, becomes 0.1
    ops = [n.op_type for n in wide.graph.node if n.op_type not in ("DequantizeLinear", "QuantizeLinear")]
    assert ops == ["Conv", "Relu", "Clip", "Conv"]
    (clamped,) = [n for n in wide.graph.node if n.op_type == "Clip"]
    (relu,) = [n for n in wide.graph.node if n.op_type == "Relu"]
    assert (relu.input[0], relu.output[0], clamped.output[0]) == ("c", "r", "k")
    contributed_quantizers(wide)  # which this opset does not have
    real, rounded = (run(each, SAMPLES[0]) for each in (made, wide))
    assert abs(real - rounded).max() < 0.03 * abs(real).max()  # of 8-bit weights


def test_a_relu_stays_where_its_range_reaches_below_zero() -> None:
    """Its output shares the range of a Concat with negative numbers, or has one that a recipe gives."""
    nodes = [
        node("Conv", "x w", "c"), node("Relu", "c", "r"), node("Tanh", "x", "t"), node("Concat", "r t", "y", axis=1),
        node("Conv", "r v", "z"),
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    constants = {
        name: rng.standard_normal((c, d, 1, 1)).astype(np.float32)
        for name, c, d in (("w", 8, 3), ("v", 4, 8))
    }
    source = networks.model(nodes, {"x": [1, 3, 8, 8]}, {"y": None, "z": None}, constants)
    recipe = Recipe(tensors={"r": TensorRecipe(low=-3.0, high=8.0)})
    for made in (quantised(source, method="minmax"), quantised(source, recipe=recipe)):
        assert "Relu" in [n.op_type for n in made.graph.node]
        real, rounded = run(source, SAMPLES[0]), run(made, SAMPLES[0])
        assert abs(real - rounded).max() < 0.03 * abs(real).max()


def test_the_form_that_was_judged_is_that_of_the_plan() -> None:
    model = canonicalize(import_model(networks.convolution()))
    plan, form = plan_and_form(model, FrontOptions(calibration=SAMPLES))
    assert form is not None
    judged, anew = (ir.to_proto(quantize(model, plan, form=each)) for each in (form, None))
    assert judged.SerializeToString(deterministic=True) == anew.SerializeToString(deterministic=True)


@pytest.mark.parametrize("kind", ["uint8", "int16"])
def test_shapes_of_what_is_put_in_are_noted(kind: str) -> None:
    made = quantised(networks.with_host_part(), activations=kind)
    made.opset_import[0].version = 21  # of 16 bits
    check_shapes(made)


def test_what_a_relu_alone_reads_has_the_range_of_its_result() -> None:
    """It is not counted; its limits are known nevertheless."""
    model = canonicalize(import_model(networks.convolution()))
    form = form_of(model)
    assert rectified(model) == {"c": "r"}
    whole, limits = (observe(form, ["c", "r"], SAMPLES, only_limits=names) for names in ([], ["c"]))
    assert limits["c"].histogram.counts.sum() == 0 < whole["c"].histogram.counts.sum()
    assert limits["c"].histogram.low == whole["c"].histogram.low < 0
    for name in ("channel_low", "channel_high"):
        np.testing.assert_array_equal(getattr(limits["c"], name), getattr(whole["c"], name))
    choices = make_plan(model, FrontOptions(calibration=SAMPLES, method="mse")).choices
    assert choices["c"] == choices["r"] and choices["c"].low == 0


def test_each_sample_is_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If observations are on disk, only those that judge are; the plan is the same."""
    monkeypatch.setenv("OMMATID_CACHE_DIR", str(tmp_path / "cache"))
    ran: list[int] = []

    def counting(*args: Any) -> Run:
        run = when_needed(*args)

        def counted(feeds: Feeds, some: Collection[str] | None = None) -> dict[str, Array]:
            ran.append(1)
            return run(feeds, some)

        return counted

    monkeypatch.setattr("ommatid.compiler.plan.when_needed", counting)
    samples = tmp_path / "samples"
    samples.mkdir()
    for seed in range(JUDGES + 2):
        np.save(samples / f"{seed}.npy", networks.inputs(seed)["x"])
    model = canonicalize(import_model(networks.convolution()))
    plans = [make_plan(model, FrontOptions(calibration=samples)) for _ in range(2)]
    assert len(ran) == (JUDGES + 2) + JUDGES
    assert plans[0].choices == plans[1].choices and plans[0].recipe == plans[1].recipe


def test_what_is_a_step_off_at_most_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judged by onnxruntime: the greatest difference of an output of the two models, over its scale."""
    verdicts = []
    first = Search._judged

    def recorded(self: Search, candidate: Candidate) -> Verdict:
        verdicts.append((self, candidate, found := first(self, candidate)))
        return found

    monkeypatch.setattr(Search, "_judged", recorded)
    model = canonicalize(import_model(networks.convolution()))
    make_plan(model, FrontOptions(calibration=SAMPLES))
    assert len(verdicts) > 1  # bias correction was tried
    search, plain, verdict = verdicts[0]
    form = networks.proto_of(search.forms[plain].model())
    session = onnxruntime.InferenceSession(
        form.SerializeToString(), exact_options(form), providers=["CPUExecutionProvider"]
    )
    scale, zero = parameters(form, "y")
    errors = [
        np.abs(run(networks.proto_of(model), feeds) - session.run(["y"], feeds)[0]).max() for feeds in SAMPLES
    ]
    assert verdict.steps == pytest.approx(max(errors) / scale, rel=1e-5) and zero.dtype == np.uint8

    verdicts.clear()
    monkeypatch.setattr(
        Search, "_judged", lambda self, candidate: verdicts.append(candidate) or Verdict(0.5, 1.0)
    )
    plan = make_plan(model, FrontOptions(calibration=SAMPLES))
    assert len(verdicts) == 1 and not plan.gains and not plan.shifts


def judged(made: onnx.ModelProto, **options: Any) -> list[float]:
    """By output, the greatest error of a compiled network over the greatest value."""
    program = compile_model(made, calibration=SAMPLES, **options)
    ours = InferenceSession(program).run(None, SAMPLES[0])
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    theirs = session.run(None, SAMPLES[0])
    return [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours, theirs, strict=True)]


def test_a_relu_of_a_relu() -> None:
    made = networks.convolution()
    at = [node.op_type for node in made.graph.node].index("Relu")
    made.graph.node.insert(at, node("Relu", "c", "c1"))
    made.graph.node[at + 1].input[0] = "c1"
    assert rectified(import_model(made)) == {"c": "r", "c1": "r"}
    assert max(judged(made)) < 0.05


def test_what_not_only_a_relu_reads_is_not_clamped() -> None:
    made = networks.convolution()
    made.graph.node.append(node("Add", "c r", "z"))
    made.graph.output.append(networks.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None))
    assert rectified(import_model(made)) == {} and max(judged(made)) < 0.05


def test_an_output_that_a_relu_reads_is_not_clamped() -> None:
    made = networks.convolution()
    made.graph.output.append(networks.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, None))
    assert max(judged(made)) < 0.05


@pytest.mark.parametrize("op", ["Relu", "Clip"])
def test_clamps_of_doubles_stay(op: str) -> None:
    """They are not rounded, so that no rounding can clamp them."""
    half = numpy_helper.from_array(np.array(-0.5), "half")
    nodes = [
        node("Cast", "x", "wide", to=onnx.TensorProto.DOUBLE), node("Add", "wide half", "sum"),
        node(op, "sum half" if op == "Clip" else "sum", "clamped"), node("Cast", "clamped", "y", to=onnx.TensorProto.FLOAT),
    ]  # fmt: skip
    made = networks.model(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 3, 8, 8]})
    made.graph.initializer.append(half)
    assert max(judged(made)) < 0.05


@pytest.mark.parametrize(("name", "count"), [("c", 0), ("r", 1)])
def test_16_bits_of_a_tensor_that_is_equalised(name: str, count: int) -> None:
    """What a Relu alone reads is not rounded at all."""
    made = networks.convolution()
    recipe = Recipe("uint8", {name: TensorRecipe(precision="int16")}, {"second": LayerRecipe(equalize=True)})
    model = canonicalize(import_model(made))
    plan = make_plan(model, FrontOptions(calibration=SAMPLES, recipe=recipe))
    assert "r__equalized" in plan.choices
    result = ir.to_proto(quantize(model, plan))
    kinds = {i.name: i.data_type for i in result.graph.initializer}
    wide = [
        n
        for n in result.graph.node
        if n.op_type == "QuantizeLinear" and kinds[n.input[2]] == onnx.TensorProto.INT16
    ]
    assert len(wide) == count


def test_limits_of_what_is_equalised_are_those_of_all_samples() -> None:
    """The last sample, which does not judge, has the greatest values."""
    made, samples = uneven(), [networks.inputs(seed, size=16) for seed in range(JUDGES + 1)]
    samples[-1] = {"x": 5 * samples[-1]["x"]}
    recipe = Recipe("uint8", layers={"second": LayerRecipe(equalize=True)})
    plan = make_plan(made, FrontOptions(calibration=samples, recipe=recipe, method="minmax"))
    (gain,) = plan.gains.values()
    seen = observe(form_of(made), ["r"], samples)["r"]
    assert plan.choices["r__equalized"].high == pytest.approx((seen.channel_high / gain).max(), rel=1e-5)
