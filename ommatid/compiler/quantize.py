"""Quantisation: a float model becomes ONNX's standard QDQ form, by onnxruntime's own tools.

Ours is the choice of what is quantised (all that the NPU takes, so that it can run there) and the ranges of
Concat: a chain of them shares one, so that it costs nothing.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from ommatid.compiler import unary
from ommatid.compiler.calibration import samples
from ommatid.compiler.errors import CompileError
from ommatid.compiler.model import fold, name_nodes
from ommatid.compiler.operators import FINDERS, MOVERS, RULES
from ommatid.compiler.rounding import drop_inner_roundings, saturate
from ommatid.isa.program_file import write_whole

if TYPE_CHECKING:
    from ommatid.compiler.front import FrontOptions

QUANTISED = sorted(
    {
        *RULES,
        *MOVERS,
        *FINDERS,
        *unary.UNARY,
        *unary.LOGIC,
        "Clip",
        "Div",
        "Pow",
        "Max",
        "Min",
        "BatchNormalization",
        "PRelu",
    }
)


class _Reader:
    """Samples in the form that onnxruntime's calibrators ask for."""

    def __init__(self, feeds: Any) -> None:
        self.feeds = feeds

    def get_next(self) -> Any:
        """The next sample, or None."""
        return next(self.feeds, None)

    def __iter__(self) -> Any:
        return self.feeds


def quantize(model: ir.Model, options: FrontOptions) -> ir.Model:
    """The model in QDQ form: int8 weights by channel, 8-bit activations by tensor.

    Raises:
        CompileError: the calibration data cannot be used, or onnxruntime cannot run the model.
    """
    proto = _proto(model)
    ranges = calibrate(model, options) if options.ranges is None else _adopted(model, options.ranges)
    saturate(model, ranges)
    _share_concat_ranges(model, ranges)
    result = ir.from_proto(_to_qdq(proto, ranges, options))
    drop_inner_roundings(result)
    result.metadata_props.clear()  # the quantiser leaves a mark of its own
    result.metadata_props.update(model.metadata_props)
    common.TopologicalSortPass()(result)
    if options.save_qdq:
        write_whole(options.save_qdq, ir.to_proto(result).SerializeToString())
    name_nodes(result)
    fold(result)
    return result


def _adopted(model: ir.Model, ranges: Any) -> Any:
    """A copy, which may be changed, of ranges that were found at other shapes of the same model."""
    for node in model.graph:
        for value in (*node.inputs, *node.outputs) if node.op_type in QUANTISED else ():
            if value is None or value.const_value is not None or value.dtype != ir.DataType.FLOAT:
                continue
            if value.name not in ranges.data:
                raise CompileError(
                    f"tensor {value.name!r} does not exist at the shape where ranges were found",
                    "the graph differs between these shapes: compile this one alone", node.name or "",
                )  # fmt: skip
    return copy.deepcopy(ranges)


def _proto(model: ir.Model) -> onnx.ModelProto:
    proto = ir.to_proto(model)
    proto.ir_version = min(proto.ir_version, 10)
    return proto


def calibrate(model: ir.Model, options: FrontOptions) -> Any:
    """The ranges of the tensors to quantise, by name, as onnxruntime's quantiser takes them.

    Raises:
        CompileError: the calibration data cannot be used, or onnxruntime cannot run the model.
    """
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    methods = {
        "minmax": (CalibrationMethod.MinMax, {}),
        "percentile": (CalibrationMethod.Percentile, {"percentile": options.percentile}),
        "entropy": (CalibrationMethod.Entropy, {}),
    }
    if options.method not in methods:
        raise CompileError(
            f"unknown calibration method {options.method!r}", f"use one of {', '.join(methods)}"
        )
    method, extra = methods[options.method]
    feeds = samples(model, options.calibration, options.preprocess)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save_model(_proto(model), path)
        try:
            calibrator = create_calibrator(
                path, QUANTISED, augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=method, extra_options=extra,
            )  # fmt: skip
            with contextlib.redirect_stdout(io.StringIO()):  # histograms report on standard output
                for sample in feeds:  # one at a time: it holds all tensors of what it is given
                    calibrator.collect_data(_Reader(iter([sample])))
                ranges = calibrator.compute_data()
        except Exception as error:
            if hasattr(error, "hint"):  # of the calibration data, and says so itself
                raise
            raise CompileError(
                f"onnxruntime cannot run the model for calibration: {error}",
                "check that it runs in onnxruntime",
            ) from None
    for tensor, found in ranges.data.items():
        if not np.isfinite(found.range_value).all():
            raise CompileError(f"tensor {tensor!r} becomes infinite on the calibration data", node=tensor)
    return ranges


def _share_concat_ranges(model: ir.Model, ranges: Any) -> None:
    """One range for the inputs and output of each Concat whose input is another Concat or is used elsewhere."""
    groups: dict[str, str] = {}

    def leader(name: str) -> str:
        while groups.get(name, name) != name:
            name = groups[name]
        return name

    for node in model.graph:
        if node.op_type not in ("Concat", "MaxPool"):
            continue
        reused = node.op_type == "MaxPool" or any(v is not None and len(v.uses()) > 1 for v in node.inputs)
        for value in node.inputs if reused else ():
            if value is not None:
                groups[leader(value.name or "")] = leader(node.outputs[0].name or "")
    members: dict[str, list[str]] = {}
    for name in groups:
        members.setdefault(leader(name), []).append(name)
    for chief, names in members.items():
        known = [n for n in {chief, *names} if n in ranges.data]
        if not known:
            continue
        low = np.min([np.min(ranges.data[n].lowest) for n in known]).astype(np.float32)
        high = np.max([np.max(ranges.data[n].highest) for n in known]).astype(np.float32)
        for n in known:
            ranges.data[n].lowest, ranges.data[n].highest = low, high


def _to_qdq(proto: onnx.ModelProto, ranges: Any, options: FrontOptions) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    kind = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}[options.activations]
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        quantizer = QDQQuantizer(
            proto, True, False, QuantType.QInt8, kind, ranges, [], _left_out(proto), QUANTISED, {}
        )
        for value in proto.graph.input:
            # The quantiser leaves what only moves or compares bytes as it is, unless its input is quantised.
            if value.name in ranges.data:
                quantizer.quantize_activation_tensor(value.name)
        for node in proto.graph.node:
            for name in (*node.input[1:], *node.output) if node.op_type == "Where" else ():
                quantizer.quantize_activation_tensor(name)
        quantizer.quantize_model()
    finally:
        logging.getLogger().setLevel(level)
    result: onnx.ModelProto = quantizer.model.model
    return result


def _left_out(proto: onnx.ModelProto) -> list[str]:
    """Names of nodes that onnxruntime's quantiser cannot take: normalisations over several axes."""
    ranks = {weights.name: len(weights.dims) for weights in proto.graph.initializer}
    return [
        node.name
        for node in proto.graph.node
        if node.op_type == "LayerNormalization" and any(ranks.get(name, 1) != 1 for name in node.input[1:])
    ]
