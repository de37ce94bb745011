"""The ONNX standard's cases of every operator that the table marks NPU, forced to the NPU.

A case becomes a model whose shapes, bounds and weights are constant, and is quantised with its own inputs; what the
NPU computes is within one step of what onnxruntime makes of the same QDQ model, or one of ``REASONS`` says why not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidGraph

import ommatid
from ommatid.compiler.errors import CompileError
from ommatid.compiler.exact_session import exact_options
from ommatid.compiler.operators import table
from tests.node_cases import cases_of

Array = np.ndarray[Any, Any]

OPERATORS = {row[0] for row in table()} | {"ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum"}
#: The newest opset of which onnxruntime quantises; a node of a newer one is tried in this one, where it has its form.
NEWEST = 24
#: Operators whose inputs after the first are weights or parameters.
ONE_ACTIVATION = {
    "BatchNormalization", "Clip", "Conv", "ConvTranspose", "Dropout", "Expand", "Gather", "Gemm", "LayerNormalization",
    "PRelu", "Pad", "RMSNormalization", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Tile", "Unsqueeze", "Upsample",
}  # fmt: skip
#: Why a case does not run on the NPU, by what the error says.
REASONS = {
    "more than inference by one result": "only its first output is computed",
    "it draws random numbers": "for training",
    "a tensor without elements": "size zero",
}
#: An operator's cases in a type that the NPU takes; another number is a change that belongs here, too.
CASES = {
    "Abs": 1, "Add": 2, "AveragePool": 20, "BatchNormalization": 4, "Ceil": 2, "Clip": 9, "Concat": 12, "Conv": 6,
    "ConvTranspose": 11, "Cos": 2, "DepthToSpace": 2, "Div": 3, "Dropout": 12, "Elu": 3, "Erf": 1, "Exp": 2,
    "Expand": 2, "Flatten": 9, "Floor": 2, "Gather": 4, "Gelu": 4, "Gemm": 11, "GlobalAveragePool": 2,
    "GlobalMaxPool": 2, "HardSigmoid": 3, "HardSwish": 1, "Identity": 1, "LRN": 2, "LayerNormalization": 19,
    "LeakyRelu": 3, "Log": 2, "MatMul": 7, "Max": 4, "MaxPool": 18, "Min": 4, "Mish": 1, "Mul": 3, "Neg": 2,
    "PRelu": 2, "Pad": 3, "Pow": 8, "RMSNormalization": 19, "Reciprocal": 2, "ReduceL1": 9, "ReduceL2": 9,
    "ReduceLogSum": 5, "ReduceMax": 9, "ReduceMean": 8, "ReduceMin": 9, "ReduceSum": 12, "ReduceSumSquare": 9,
    "Relu": 1, "Reshape": 10, "Resize": 39, "Round": 1, "Sigmoid": 2, "Sign": 1, "Sin": 2, "Slice": 8, "Softmax": 7,
    "Softplus": 2, "Softsign": 2, "SpaceToDepth": 2, "Split": 16, "Sqrt": 2, "Squeeze": 2, "Sub": 3, "Sum": 3,
    "Swish": 1, "Tanh": 2, "ThresholdedRelu": 3, "Tile": 2, "TopK": 3, "Transpose": 7, "Unsqueeze": 7,
    "Upsample": 1, "Where": 1,
}  # fmt: skip
#: Those of them that have a reason.
REFUSED = {
    "Dropout": 4, "MaxPool": 2, "ReduceL1": 1, "ReduceL2": 1, "ReduceLogSum": 1, "ReduceMax": 1,
    "ReduceMin": 1, "ReduceSum": 2, "ReduceSumSquare": 1, "Reshape": 1, "Slice": 1, "Split": 2,
}  # fmt: skip
#: Cases of which onnxruntime makes something else: it counts whole elements where the standard has fractions.
NOT_AS_THE_STANDARD = {"test_resize_downsample_scales_linear_align_corners"}
#: Cases that 8 bits cannot tell: an input next to a jump of the function, or 10,000 beside 3.
JUMPS = {"test_thresholdedrelu_example", "test_round", "test_softmax_large_number"}


def cases(op: str) -> list[tuple[str, onnx.ModelProto, dict[str, Array], list[Array]]]:
    """(name, model, feeds, results) of an operator's cases in a type that the NPU takes."""
    found: list[tuple[str, onnx.ModelProto, dict[str, Array], list[Array]]] = []
    for case in cases_of(op):
        model = case.model
        if not _is_in(NEWEST, model):
            continue
        if any(not v.type.HasField("tensor_type") for v in model.graph.input):
            continue
        values = [np.asarray(value) for value in case.data_sets[0][0]]
        kinds = {value.dtype for value in values}
        result = onnx.helper.tensor_dtype_to_np_dtype(model.graph.output[0].type.tensor_type.elem_type)
        if np.dtype(np.float32) in kinds and result == np.float32:
            named = dict(zip((v.name for v in model.graph.input), values, strict=False))
            found.append((case.name, *_fixed(model, op, named), case.data_sets[0][1]))
    return found


def _is_in(opset: int, model: onnx.ModelProto) -> bool:
    """Whether the model's node has the same form in this opset, if its own is newer: most new ones only add types."""
    node, own = model.graph.node[0], model.opset_import[0].version
    schemas = [onnx.defs.get_schema(node.op_type, max_inclusive_version=v) for v in (own, min(own, opset))]
    there, here = ([[p.name for p in ports] for ports in (s.inputs, s.outputs)] for s in schemas)
    return there == here and {a.name for a in node.attribute} <= set(schemas[1].attributes)


def _fixed(
    model: onnx.ModelProto, op: str, values: dict[str, Array]
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The model with constants for what are no activations, and the feeds that are left."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.opset_import[0].version = min(made.opset_import[0].version, NEWEST)
    feeds = {}
    for place, (name, value) in enumerate(values.items()):
        port = next(v for v in made.graph.input if v.name == name)
        if value.dtype != np.float32 or (place and op in ONE_ACTIVATION):
            made.graph.initializer.append(numpy_helper.from_array(value, name))
            made.graph.input.remove(port)
            continue
        feeds[name] = value
        for dimension, size in zip(port.type.tensor_type.shape.dim, value.shape, strict=True):
            dimension.dim_value = size
    return made, feeds


def run(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """onnxruntime's outputs; without its optimiser where that makes a quantised AveragePool with dilations, which it
    does not have."""
    options = exact_options(model)
    options.log_severity_level = 4
    data, providers = model.SerializeToString(), ["CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(data, options, providers)
    except InvalidGraph:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(data, options, providers)
    return list(session.run(None, feeds))


def differences(
    model: onnx.ModelProto, feeds: dict[str, Array], wanted: list[Array], path: Path
) -> tuple[float, float]:
    """The largest difference from onnxruntime on the QDQ form, in steps of the output's scale, and from what the
    standard says, as a part of the largest value: the QDQ form is ours, and both sides would share its faults.

    Raises:
        CompileError: the NPU cannot take it.
    """
    # Ranges that clip nothing: the operator is judged here, and not the choice of ranges.
    program = ommatid.compile(model, calibration=[feeds], method="minmax", cpu=False, save_qdq=str(path))
    results = ommatid.InferenceSession(program).run(None, feeds)
    qdq = onnx.load(path)
    constants = {i.name: numpy_helper.to_array(i) for i in qdq.graph.initializer}
    scales = {n.output[0]: n.input[1] for n in qdq.graph.node if n.op_type == "DequantizeLinear"}
    steps = part = 0.0
    for port, ours, theirs, real in zip(qdq.graph.output, results, run(qdq, feeds), wanted, strict=True):
        assert ours.shape == theirs.shape == real.shape
        step = float(constants[scales[port.name]]) if port.name in scales else 1e-9  # indices are equal
        steps = max(steps, float(np.abs(ours.astype(np.float64) - theirs).max(initial=0)) / step)
        largest = max(float(np.abs(real).max(initial=0)), 1e-9)
        part = max(part, float(np.abs(ours.astype(np.float64) - real).max(initial=0)) / largest)
    return steps, part


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("op", sorted(CASES))
def test_cases_forced_to_the_npu(op: str, tmp_path: Path) -> None:
    found, refused = cases(op), []
    for name, model, feeds, wanted in found:
        try:
            steps, part = differences(model, feeds, wanted, tmp_path / "qdq.onnx")
            assert steps <= 1.001 and (part <= 0.1 or name in JUMPS | NOT_AS_THE_STANDARD), (
                name,
                steps,
                part,
            )
        except CompileError as error:
            assert any(text in str(error) for text in REASONS.values()), (name, str(error))
            refused.append(name)
    print(f"{op}: {len(found) - len(refused)} of {len(found)} cases within a step")
    assert (len(found), len(refused)) == (CASES[op], REFUSED.get(op, 0)), refused


def test_how_many_pass() -> None:
    assert set(CASES) <= OPERATORS and set(REFUSED) <= set(CASES)
    passed, all_of_them = sum(CASES.values()) - sum(REFUSED.values()), sum(CASES.values())
    print(f"{passed} of {all_of_them} cases pass, {100 * passed / all_of_them:.1f}%")
    assert passed >= 0.95 * all_of_them
