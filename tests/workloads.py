"""The networks of docs/workloads.md for tests: with weights, quantised by onnxruntime's own quantize_static."""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, calibrate, quantize_static

from ommatid.compiler.canonicalize import canonicalize
from ommatid.compiler.model import import_model

Array = np.ndarray[Any, Any]
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
#: Files of RapidOCR's networks, and the shapes they are measured at.
RAPIDOCR = {"detector": "ch_PP-OCRv4_det_infer.onnx", "reader": "ch_PP-OCRv4_rec_infer.onnx"}
SHAPES = {"detector": (1, 3, 640, 640), "reader": (1, 3, 48, 320)}
SIX = ("resnet50", "inception_v1", "inception_v2", "densenet121", "squeezenet", "vgg19")
NINE = (*SIX, "shufflenet", "bvlc_alexnet", "zfnet512")


def rapidocr_path(name: str) -> Path:
    """The file of one of RapidOCR's networks."""
    import rapidocr_onnxruntime

    return Path(rapidocr_onnxruntime.__file__).parent / "models" / RAPIDOCR[name]


def light(name: str) -> onnx.ModelProto:
    """A ``light_*`` architecture with its ConstantOfShape weights replaced by seeded random ones."""
    model = onnx.load(LIGHT / f"light_{name}.onnx")
    generator = np.random.default_rng(0)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred}
    users: dict[str, tuple[str, int]] = {}
    for node in model.graph.node:
        for i, value in enumerate(node.input):
            users.setdefault(value, (node.op_type, i))
    kept = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        array = _weights(generator, shapes[node.output[0]], *users[node.output[0]])
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def _weights(generator: Any, shape: list[int], op: str, position: int) -> Array:
    """He's variance for kernels; scales and variances around one, shifts and means around zero."""
    if len(shape) > 1 and max(shape[1:]) > 1:
        return generator.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    if (op, position) in (("Conv", 1),) or (op == "BatchNormalization" and position in (2, 3)):
        return generator.standard_normal(shape) * (1.4 if op == "Conv" else 0.1)
    if op == "BatchNormalization" or op in ("Mul", "Unsqueeze", "Reshape"):
        return 0.5 + generator.random(shape)
    return 0.05 * generator.standard_normal(shape)


def source(name: str) -> Any:
    """The float model of a workload."""
    return rapidocr_path(name) if name in RAPIDOCR else light(name)


def images(name: str, count: int, seed: int = 0) -> list[Array]:
    """Photographs (and, for the detector, pages) at a workload's size, float32 NCHW."""
    return pictures(SHAPES.get(name, (1, 3, 224, 224)), count, seed, pages=name == "detector")


def pictures(shape: tuple[int, ...], count: int, seed: int = 0, pages: bool = False) -> list[Array]:
    """Photographs (and pages) of a shape, around zero, float32 NCHW; more than there are vary in contrast."""
    from skimage import data, transform

    photographs = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    if pages:
        page = np.stack([data.page()] * 3, axis=-1)
        photographs = [page, data.coffee(), page[::-1], data.astronaut(), page[:, ::-1]]
    generator = np.random.default_rng(seed)
    result = []
    for i in range(count):
        picture = transform.resize(photographs[i % len(photographs)], shape[2:]).astype(np.float32)
        picture = picture * np.float32(0.9 + 0.2 * generator.random()) if i >= len(photographs) else picture
        result.append(((picture - 0.45) / 0.25).transpose(2, 0, 1)[None].astype(np.float32))
    return result


class FeedsReader(CalibrationDataReader):
    """Feeds as onnxruntime's calibration takes them, once."""

    def __init__(self, feeds: list[dict[str, Array]]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> Any:
        return next(self.feeds, None)


def input_name(model: onnx.ModelProto) -> str:
    """The only input that is no initialiser."""
    weights = {i.name for i in model.graph.initializer}
    return str(next(i.name for i in model.graph.input if i.name not in weights))


#: How much wider ranges are than what the samples used, on each side of zero that they reach, as a share of the
#: range. Without it, all that a function bounds by itself (the bottom of h-swish, the top of a hard sigmoid) has
#: the code of a limit, and could not be told from a value that was clamped there.
MARGIN = 0.05


def statically_quantized(
    model: onnx.ModelProto,
    feeds: list[dict[str, Array]],
    activations: str = "uint8",
    operators: Sequence[str] | None = None,
) -> onnx.ModelProto:
    """The model in QDQ form as onnxruntime's quantize_static makes it, per channel.

    Weights have a reduced range, so that no CPU's 8-bit kernels saturate. ``operators`` are those to quantise;
    None: those that onnxruntime knows.
    """
    kind = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}[activations]
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(model, folder / "float.onnx")
        calibrator = calibrate.create_calibrator(
            folder / "float.onnx", operators, augmented_model_path=str(folder / "augmented.onnx")
        )
        calibrator.collect_data(FeedsReader(feeds))
        ranges = calibrator.compute_data()
        _widen(ranges.data, model)
        calibrate.save_tensors_data(ranges, folder / "ranges.json")
        quantize_static(
            folder / "float.onnx", folder / "qdq.onnx", quant_format=QuantFormat.QDQ, per_channel=True,
            reduce_range=True, activation_type=kind, weight_type=QuantType.QInt8,
            calibration_cache_path=folder / "ranges.json", op_types_to_quantize=operators,
        )  # fmt: skip
        return onnx.load(folder / "qdq.onnx")


def _widen(ranges: dict[str, Any], model: onnx.ModelProto) -> None:
    """Ranges with a margin; those that an AveragePool sees with a scale of eight significant bits.

    An average over a border's four or six values often lies halfway between two codes. With any scale,
    onnxruntime's sums in float32 decide such ties by their rounding errors; with a short one they are exact.
    """
    averaged = _averaged(model)
    for name, found in ranges.items():
        low, high = (limit.item() for limit in found.range_value)
        margin = MARGIN * (max(high, 0) - min(low, 0))
        low, high = low - margin * (low < 0), high + margin * (high > 0)
        if name in averaged:
            fraction, exponent = np.frexp((max(high, 0) - min(low, 0)) / 255)
            scale = np.ldexp(np.ceil(fraction * 256) / 256, exponent)
            low = scale * np.rint(min(low, 0) / scale)
            high = low + 255 * scale
        found.lowest, found.highest = np.full_like(found.lowest, low), np.full_like(found.highest, high)


def _averaged(model: onnx.ModelProto) -> set[str]:
    """The tensors whose scale an AveragePool takes over."""
    producers = {o: node for node in model.graph.node for o in node.output}
    result = set()
    for node in model.graph.node:
        if node.op_type == "AveragePool":
            name = node.input[0]
            while name in producers and producers[name].op_type in ("AveragePool", "MaxPool"):
                name = producers[name].input[0]
            result.add(name)
    return result


@functools.cache
def quantized(name: str, activations: str, samples: int = 5) -> onnx.ModelProto:
    """The workload, quantised by onnxruntime; "int8" or "uint8" activations."""
    model = raised(name)
    return statically_quantized(model, [{input_name(model): x} for x in images(name, samples)], activations)


def raised(name: str) -> onnx.ModelProto:
    """The float workload as onnxruntime quantises it: fixed in shape and raised to opset 17, Sum rewritten as Add, a
    full-window AveragePool as GlobalAveragePool (docs/workloads.md)."""
    shape = SHAPES.get(name)
    proto = ir.to_proto(canonicalize(import_model(source(name), {"x": shape} if shape else None)))
    proto.ir_version = min(proto.ir_version, 10)
    return proto
