"""What compiling costs: ResNet-50 beside onnxruntime's own quantisation of it, and a network ten times as deep."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from rich.table import Table

from ommatid.runtime.compile import compile_model
from tests.workloads import FeedsReader, images, input_name, raised, source

RUNS, SAMPLES = 5, 10
LAYERS, CHANNELS, SIDE = (1_000, 10_000), 16, 8

DEEP = """
import sys, time
import benchmarks.compiling as compiling
compiling.compile_model(compiling.deep(10))  # kernels, once
begin = time.perf_counter()
program = compiling.compile_model(sys.argv[1])
print(time.perf_counter() - begin, compiling.peak_mib(), len(program.layers), len(program.instructions))
"""


def compiling_table() -> Table:
    """Seconds, and the peak of the process that compiles; of ResNet-50 the medians of RUNS, and of the ratios of runs
    one after the other, since the machine's speed changes. No trial is remembered, but for the second row."""
    table = Table("", "s", "over", "peak", title="compiling, -O2")
    seconds = resnet50_seconds()
    middle, over = np.median(seconds, axis=0), np.median(seconds / seconds[:, 2:], axis=0)
    for i, name in enumerate(
        (f"resnet50 from float, {SAMPLES} images", "again", "onnxruntime's quantize_static")
    ):
        table.add_row(name, f"{middle[i]:.2f}", f"{over[i]:.2f}", "")
    first = 0.0
    for count in LAYERS:
        took, mib = deep_cost(count)
        first = first or took
        table.add_row(f"generated, {count:,} layers", f"{took:.2f}", f"{took / first:.2f}", f"{mib:,.0f} MiB")
    return table


def resnet50_seconds() -> np.ndarray[Any, Any]:
    """Seconds of compiling from float with images, of doing so again, and of quantize_static (per channel, MinMax) with
    the same: RUNS rows of these."""
    mine, model = source("resnet50"), raised("resnet50")
    logging.getLogger().setLevel(logging.ERROR)  # its advice
    feeds = [{input_name(model): image} for image in images("resnet50", SAMPLES)]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "float.onnx"
        onnx.save(model, path)

        def theirs() -> None:
            quantize_static(
                path, path.with_name("qdq.onnx"), FeedsReader(feeds), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip

        def ours() -> None:
            compile_model(mine, calibration=feeds)

        compile_model(deep(10))  # so that kernels are there
        times = []
        for _ in range(RUNS):
            with _empty_cache():
                times.append((_seconds(ours), _seconds(ours), _seconds(theirs)))
    return np.array(times)


@contextlib.contextmanager
def _empty_cache() -> Iterator[None]:
    """A cache folder in which nothing is remembered."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, OMMATID_CACHE_DIR=folder):
        yield


def deep_cost(layers: int) -> tuple[float, float]:
    """Seconds of compiling a network of so many layers, and the peak of the process that does it (MiB)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deep.onnx"
        onnx.save(deep(layers), path)
        args = [sys.executable, "-c", DEEP, str(path)]
        with _empty_cache():
            out = subprocess.run(args, check=True, capture_output=True, text=True).stdout.split()
    return float(out[0]), float(out[1])


def peak_mib() -> float:
    """The most memory that this process has had; ru_maxrss would begin with what its parent had."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s*(\d+)", status)
    return int(found[1]) / 1024 if found else float("nan")


def deep(layers: int) -> onnx.ModelProto:
    """A QDQ network of so many convolutions: residual blocks of a 1x1 with Relu and a 3x3, each with weights of its
    own, on maps of CHANNELS x SIDE x SIDE."""
    generator = np.random.default_rng(0)
    nodes: list[Any] = []
    weights = [
        numpy_helper.from_array(value, name)
        for name, value in (
            ("scale", np.float32(1 / 16)), ("zero", np.uint8(128)),
            ("weight_scale", np.float32(1 / 256)), ("weight_zero", np.int8(0)),
            ("bias_scale", np.float32(1 / 4096)), ("bias_zero", np.int32(0)),
        )
    ]  # fmt: skip

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def rounded(value: str) -> str:
        quantised = node("QuantizeLinear", [value, "scale", "zero"], f"{value}_q")
        return node("DequantizeLinear", [quantised, "scale", "zero"], f"{value}_dq")

    def constant(name: str, value: Any, kind: str) -> str:
        weights.append(numpy_helper.from_array(value, f"{name}_q"))
        return node("DequantizeLinear", [f"{name}_q", f"{kind}_scale", f"{kind}_zero"], name)

    value = rounded("x")
    for i in range(layers):
        side = 1 if i % 2 == 0 else 3
        shape = (CHANNELS, CHANNELS, side, side)
        weight = constant(f"w{i}", generator.integers(-127, 128, shape, np.int8), "weight")
        bias = constant(f"b{i}", generator.integers(-999, 999, CHANNELS, np.int32), "bias")
        made = node("Conv", [value, weight, bias], f"conv{i}", pads=[side // 2] * 4)
        if side == 1:
            before, value = value, rounded(node("Relu", [made], f"relu{i}"))
        else:
            value = rounded(node("Add", [before, rounded(made)], f"add{i}"))
    node("Identity", [value], "y")
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, CHANNELS, SIDE, SIDE]) for n in "xy"]
    graph = helper.make_graph(nodes, "deep", ports[:1], ports[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _seconds(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
