"""Comparison of a program with a reference that we did not write: ONNX Runtime, tensor by tensor.

Mode ``single`` feeds every layer the reference's own inputs, by overwriting each tensor in memory as soon as
it has been compared; mode ``entire`` lets errors add up as they do in use.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ommatid.compiler.calibration import samples
from ommatid.compiler.errors import CompileError
from ommatid.compiler.exact_session import exact_options
from ommatid.compiler.model import import_model, to_proto
from ommatid.isa.program import Placed, Program, Quantization
from ommatid.runtime.host import CpuPartition, to_memory, to_onnx
from ommatid.runtime.session import InferenceSession, execute, placed_by_name
from ommatid.simulator.functional import Machine

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]


@dataclass
class TensorReport:
    """What was found of one tensor, over all samples.

    ``max_abs_error`` is in real units, ``max_steps`` in steps of the tensor's scale; ``evidence`` says whether
    its values were varied enough to count (design 3.8); ``exact`` whether onnxruntime held an exact kernel.
    """

    name: str
    mode: str
    reference: str
    sqnr_db: float = 0.0
    cosine: float = 1.0
    max_abs_error: float = 0.0
    max_steps: int = 0
    equal: float = 1.0
    evidence: bool = False
    exact: bool = False
    _signal: float = 0.0
    _noise: float = 0.0
    _dot: float = 0.0
    _norm: float = 0.0
    _equal: int = 0
    _count: int = 0
    _values: set[int] = field(default_factory=set)
    _limits: int = 0

    def add(self, ours: Array, reference: Array, step: float) -> None:
        """Count one sample of real values."""
        a, b = ours.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
        error = np.abs(a - b)
        self._noise += float(error @ error)
        self.max_abs_error = max(self.max_abs_error, float(error.max(initial=0)))
        self.max_steps = max(self.max_steps, round(float(error.max(initial=0)) / step))
        self._sum_up(float(b @ b), float(a @ b), float(a @ a), int((error < step / 2).sum()), a.size)

    def add_codes(self, ours: Array, reference: Array, quantization: Quantization) -> None:
        """Count one sample of quantised values, and judge whether it proves anything."""
        info = np.iinfo(reference.dtype)
        counts = np.bincount(reference.ravel().astype(np.int64) - info.min, minlength=info.max - info.min + 1)
        if np.array_equal(ours, reference):  # the usual case: one sum over the codes
            real = _real(np.arange(info.min, info.max + 1), quantization)
            signal = float(counts @ (real * real))
            self._sum_up(signal, signal, signal, reference.size, reference.size)
        else:
            self.add(_real(ours, quantization), _real(reference, quantization), quantization.scale)
        self._values |= set((np.flatnonzero(counts) + info.min).tolist())
        self._limits += sum(
            int(counts[limit - info.min])
            for limit in (info.min, info.max)
            if limit != quantization.zero_point
        )
        needed = 32 if reference.size >= 256 else 4
        self.evidence = len(self._values) >= needed and self._limits <= 0.05 * max(self._count, 1)

    def _sum_up(self, signal: float, dot: float, norm: float, equal: int, count: int) -> None:
        self._signal += signal
        self._dot += dot
        self._norm += norm
        self._equal += equal
        self._count += count
        self.sqnr_db = 10 * float(
            np.log10(max(self._signal, 1e-30) / max(self._noise, self._signal * 1e-12, 1e-30))
        )
        self.cosine = (
            self._dot / max(float(np.sqrt(self._signal * self._norm)), 1e-30) if self._signal else 1.0
        )
        self.equal = self._equal / max(self._count, 1)

    def to_dict(self) -> dict[str, Any]:
        """The keys of ``compare`` (design 7)."""
        keys = ("name", "mode", "reference", "sqnr_db", "cosine", "max_abs_error", "equal")
        return {key: getattr(self, key) for key in keys}


def _real(codes: Array, quantization: Quantization) -> Array:
    """What codes stand for, in float64: in float32, codes of 16 bits overflow where a pool's window holds nothing."""
    return (codes.astype(np.float64) - quantization.zero_point) * float(quantization.scale)


def exposed(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """The model with these tensors as further outputs; those that it does not have are left out."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    produced = {o for node in copy.graph.node for o in node.output}
    have = {o.name for o in copy.graph.output}
    for name in dict.fromkeys(names):
        if name in produced and name not in have:
            copy.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return copy


@dataclass(frozen=True)
class Reference:
    """onnxruntime on a model with tensors exposed. ``exact`` are outputs of its QLinear kernels."""

    session: Any
    names: tuple[str, ...]
    exact: frozenset[str]

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """All exposed tensors and outputs by name."""
        return dict(zip(self.names, self.session.run(list(self.names), dict(feeds)), strict=True))


EXACT_KERNELS = ("QLinearConv", "QLinearMatMul", "QGemm")


def make_reference(model: onnx.ModelProto, names: Iterable[str]) -> Reference:
    """onnxruntime on the model, exposing ``names``; its optimised graph says which kernels are exact."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = exact_options(model)
        # one level below all: layouts stay ONNX's, so that the kernels' outputs keep their names
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        session = onnxruntime.InferenceSession(
            exposed(model, names).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        optimised = onnx.load(options.optimized_model_filepath)
    exact = {o for node in optimised.graph.node if node.op_type in EXACT_KERNELS for o in node.output}
    outputs = tuple(o.name for o in session.get_outputs())
    return Reference(session, outputs, frozenset(exact))


def layerwise(
    program: Program,
    qdq: onnx.ModelProto,
    samples: Sequence[Feeds],
    mode: str = "single",
    names: Iterable[str] | None = None,
) -> list[TensorReport]:
    """Every tensor of the program (or those of ``names``) that onnxruntime has too, on the same QDQ model."""
    reference = make_reference(qdq, [p.tensor.name for p in program.placed] if names is None else names)
    reports: dict[str, TensorReport] = {}
    for feeds in samples:
        expected = reference.run(feeds)
        _run_beside(program, feeds, expected, reports, mode, reference.exact)
    return list(reports.values())


def _run_beside(
    program: Program,
    feeds: Feeds,
    expected: Mapping[str, Array],
    reports: dict[str, TensorReport],
    mode: str,
    exact: frozenset[str],
) -> None:
    machine = Machine(program)

    def compare(m: Machine, placed: Placed) -> None:
        tensor = placed.tensor
        codes = expected.get(tensor.name)
        if codes is None or codes.dtype != np.dtype(tensor.quantization.dtype):
            return
        ours = to_onnx(m.read(placed), tensor)
        report = reports.setdefault(
            tensor.name, TensorReport(tensor.name, mode, "qdq", exact=tensor.name in exact)
        )
        report.add_codes(ours, codes, tensor.quantization)
        if mode == "single":
            m.write(placed, to_memory(codes, tensor))

    cpu = {i: CpuPartition(p) for i, p in enumerate(program.partitions) if p.placement == "cpu"}
    execute(program, machine, placed_by_name(program), dict(feeds), cpu, on_ready=compare)


def against_float(program: Program, model: onnx.ModelProto, samples: Sequence[Feeds]) -> list[TensorReport]:
    """Every tensor of the program whose float original the model has, errors adding up (mode ``entire``)."""
    originals = {p.tensor.name: _original(p.tensor.name) for p in program.placed}
    reference = make_reference(model, originals.values())
    reports: dict[str, TensorReport] = {}
    for feeds in samples:
        real = reference.run(feeds)
        machine = Machine(program)

        def compare(m: Machine, placed: Placed, real: Any = real) -> None:
            name, tensor = originals[placed.tensor.name], placed.tensor
            if name in real and real[name].shape == tensor.onnx_shape:
                report = reports.setdefault(name, TensorReport(name, "entire", "float"))
                ours = _real(to_onnx(m.read(placed), tensor), tensor.quantization)
                report.add(ours, real[name], tensor.quantization.scale)

        cpu = {i: CpuPartition(p) for i, p in enumerate(program.partitions) if p.placement == "cpu"}
        values = dict(feeds)
        execute(program, machine, placed_by_name(program), values, cpu, on_ready=compare)
        for port in program.outputs:  # what the host computes lies in no memory of the chip
            if (
                port.name in values
                and port.name in real
                and np.issubdtype(real[port.name].dtype, np.floating)
            ):
                report = reports.setdefault(port.name, TensorReport(port.name, "entire", "float"))
                report.add(values[port.name], real[port.name], float(np.finfo(np.float32).eps))
    return list(reports.values())


def of_outputs(program: Program, reports: Iterable[TensorReport]) -> list[TensorReport]:
    """The reports of the network's outputs."""
    names = {p.name for p in program.outputs} | {p.tensor for p in program.outputs}
    return [report for report in reports if report.name in names]


def accuracy(
    program: Program, model: str, data: Any, preprocess: Any, shapes: Mapping[str, Sequence[int]],
    inputs: Sequence[str] = (), outputs: Sequence[str] = (),
) -> list[TensorReport]:  # fmt: skip
    """Reports of a program's outputs against the model that it was compiled from with the same options.

    Raises:
        CompileError: the model or the data cannot be used.
    """
    imported = import_model(model, shapes, inputs, outputs)
    reference = make_reference(to_proto(imported), ())
    kind = "qdq" if any(node.op_type == "QuantizeLinear" for node in imported.graph) else "float"
    session = InferenceSession(program)
    names = [port.name for port in program.outputs]
    reports = {name: TensorReport(name, "entire", kind) for name in names}
    for feeds in samples(imported, data, preprocess):
        real = reference.run(feeds)
        for name, ours in zip(names, session.run(None, feeds), strict=True):
            reports[name].add(ours, real[name], float(np.finfo(np.float32).eps))
    return list(reports.values())


def _original(name: str) -> str:
    """The float tensor that onnxruntime's quantiser made a quantised tensor from."""
    return name.removesuffix("_QuantizeLinear_Output")


def compare_files(program: Program, model: str, data: Any, mode: str, preprocess: Any) -> list[TensorReport]:
    """Reports of a program against the ONNX model that it was made from, float or QDQ.

    Raises:
        CompileError: the model or the data cannot be used.
    """
    shapes = {p.name: p.shape for p in program.inputs}
    imported = import_model(model, shapes)
    feeds = list(samples(imported, data, preprocess))
    quantised = any(node.op_type == "QuantizeLinear" for node in imported.graph)
    if quantised:
        return layerwise(program, to_proto(imported), feeds, mode)
    if mode == "single":
        raise CompileError(
            f"{model}: is not a QDQ model, which mode single needs", "save one with compile --save-qdq"
        )
    return against_float(program, to_proto(imported), feeds)
