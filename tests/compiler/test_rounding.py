"""Fewer roundings: the QDQ model keeps those that count, and onnxruntime agrees that it is the same network."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from ommatid.compiler.exact_session import exact_options
from ommatid.compiler.pipeline import compile_model
from ommatid.profiler.compare import layerwise
from tests import networks
from tests.workloads import statically_quantized

SAMPLES = [networks.inputs(seed, size=16) for seed in range(4)]


def swish_block() -> onnx.ModelProto:
    """Conv, scaled and shifted by one number, HardSwish, scaled and shifted again, Conv without padding."""
    made = networks.convolution(size=16)
    for name, value in {"s": 0.7, "t": 0.2, "u": 1.3, "o": -0.4}.items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value], np.float32), name))
    between = [
        helper.make_node("Mul", ["s", "c"], ["c1"], "scale"),
        helper.make_node("Add", ["c1", "t"], ["c2"], "shift"),
        helper.make_node("HardSwish", ["c2"], ["h"], "swish"),
        helper.make_node("Mul", ["u", "h"], ["h1"], "scale2"),
        helper.make_node("Add", ["h1", "o"], ["r"], "shift2"),
    ]
    first, _, second = (onnx.NodeProto.FromString(n.SerializeToString()) for n in made.graph.node)
    del made.graph.node[:]
    made.graph.node.extend([first, *between, second])
    return made


def test_a_chain_of_functions_is_rounded_once(tmp_path: Path) -> None:
    model, path = swish_block(), tmp_path / "qdq.onnx"
    program = compile_model(model, calibration=SAMPLES, save_qdq=str(path))
    qdq = onnx.load(path)
    counts = Counter(node.op_type for node in qdq.graph.node)
    # x, the first convolution with its scaling, the whole of h-swish, the second convolution
    assert counts["QuantizeLinear"] == 4 and counts["Mul"] == counts["Add"] == 1
    quantised = onnxruntime.InferenceSession(str(path), exact_options(onnx.load(path))).run(None, SAMPLES[0])[
        0
    ]
    real = onnxruntime.InferenceSession(model.SerializeToString()).run(None, SAMPLES[0])[0]
    assert 10 * np.log10((real**2).sum() / ((real - quantised) ** 2).sum()) > 30
    assert all(report.max_steps <= 1 for report in layerwise(program, qdq, SAMPLES))


def test_ranges_begin_where_h_swish_does(tmp_path: Path) -> None:
    path = tmp_path / "qdq.onnx"
    compile_model(swish_block(), calibration=SAMPLES, save_qdq=str(path))
    qdq = onnx.load(path)
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in qdq.graph.initializer}
    swish = next(node for node in qdq.graph.node if node.op_type == "HardSwish")
    dequantize = next(node for node in qdq.graph.node if node.output[0] == swish.input[0])
    scale, zero = (constants[name] for name in dequantize.input[1:])
    assert -3 - scale <= -float(scale) * int(zero) <= -3 + scale


def test_the_largest_is_rounded_before_it_is_chosen() -> None:
    """onnxruntime's quantiser leaves LRN in float: LRN, MaxPool, MaxPool, QuantizeLinear."""
    made = networks.convolution(size=16)
    first, relu, second = (onnx.NodeProto.FromString(n.SerializeToString()) for n in made.graph.node)
    window = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    between = [
        helper.make_node("LRN", ["r"], ["n"], "norm", size=3),
        helper.make_node("MaxPool", ["n"], ["p"], "pool", **window),
        helper.make_node("MaxPool", ["p"], ["o"], "pool again", **window),
    ]
    second.input[0] = "o"
    del made.graph.node[:]
    made.graph.node.extend([first, relu, *between, second])
    qdq = statically_quantized(made, SAMPLES)
    program = compile_model(qdq)
    assert [p.placement for p in program.partitions] == ["npu"]
    reports = layerwise(program, qdq, SAMPLES)
    assert {r.name for r in reports} >= {"r_QuantizeLinear_Output", "o_QuantizeLinear_Output"}
    assert all(report.max_steps <= 1 for report in reports)


def test_an_input_is_rounded_before_it_is_turned() -> None:
    """onnxruntime's quantiser leaves a Transpose of a network's input in float."""
    made = networks.convolution(size=16)
    made.graph.node.insert(0, helper.make_node("Transpose", ["image"], ["x"], "turn", perm=[0, 3, 1, 2]))
    made.graph.input[0].CopyFrom(
        helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 16, 16, 3])
    )
    samples = [{"image": sample["x"].transpose(0, 2, 3, 1)} for sample in SAMPLES]
    qdq = statically_quantized(made, samples)
    assert [n.op_type for n in qdq.graph.node if "image" in n.input] == ["Transpose"]
    program = compile_model(qdq)
    assert [p.placement for p in program.partitions] == ["npu"]
    reports = layerwise(program, qdq, samples)
    assert reports and all(report.equal == 1 for report in reports)
