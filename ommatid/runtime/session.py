"""``InferenceSession``: onnxruntime's signature, on the simulated NPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ommatid.isa.program import Placed, Port, Program
from ommatid.isa.program_file import load
from ommatid.runtime.cache import compiled
from ommatid.runtime.host import CpuPartition, dequantize, quantize, to_memory, to_onnx
from ommatid.simulator.functional import PLAIN, Machine
from ommatid.simulator.timing import simulate

Array = np.ndarray[Any, Any]
PROVIDER = "OmmatidExecutionProvider"
TYPES = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16, "tensor(int64)": np.int64,
    "tensor(int32)": np.int32, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(bool)": np.bool_,
}  # fmt: skip


class RunError(ValueError):
    """Feeds that do not fit the network's inputs; ``hint`` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class NodeArg:
    """An input or output, as onnxruntime describes it."""

    name: str
    shape: list[int]
    type: str


class InferenceSession:
    """Run a network on the simulated NPU, with onnxruntime's calls.

    ``path_or_bytes`` is a Program, an ``.omm`` file, an ``.onnx`` file, or the bytes of either; an ONNX model
    is compiled, and the result kept in a cache on disk. ``options`` are those of ``ommatid.compile``. ``strict``
    executes in the plainest way: no choice by CPU, one thread, the same bits.

    Raises:
        CompileError, TargetError, ProgramFileError: the model or program cannot be used.
    """

    def __init__(
        self, path_or_bytes: Any, sess_options: Any = None, providers: Sequence[Any] | None = None,
        provider_options: Any = None, strict: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        self.program = _program(path_or_bytes, options)
        self.strict = strict
        self.cycles = 0
        self._placed = placed_by_name(self.program)
        self._cpu = {
            i: CpuPartition(p) for i, p in enumerate(self.program.partitions) if p.placement == "cpu"
        }
        self._machine: Machine | None = None
        self._cycles_of_one: int | None = None

    def get_inputs(self) -> list[NodeArg]:
        """The network's inputs."""
        return [NodeArg(p.name, list(p.shape), p.dtype) for p in self.program.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """The network's outputs."""
        return [NodeArg(p.name, list(p.shape), p.dtype) for p in self.program.outputs]

    def get_providers(self) -> list[str]:
        """The provider's name, alone."""
        return [PROVIDER]

    def get_modelmeta(self) -> Any:
        """The model's metadata: ``custom_metadata_map``."""
        return SimpleNamespace(custom_metadata_map=dict(self.program.metadata))

    def cycles_per_run(self) -> int:
        """Simulated cycles of one pass of the program, CPU partitions left out."""
        if self._cycles_of_one is None:
            npu = [p for p in self.program.partitions if p.placement == "npu"]
            self._cycles_of_one = sum(simulate(self.program, p.begin, p.end).cycles for p in npu)
        return self._cycles_of_one

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None
    ) -> list[Array]:
        """The outputs named (None: all) for these feeds; ``cycles`` is then what the run took.

        A batch larger than the program's runs as several passes.

        Raises:
            RunError: an input is missing, unknown, or of another type or shape.
        """
        names = list(output_names) if output_names else [p.name for p in self.program.outputs]
        known = [p.name for p in self.program.outputs]
        for name in names:
            if name not in known:
                raise RunError(f"output {name!r} does not exist", f"the outputs are {', '.join(known)}")
        feeds, passes, rows = self._checked(input_feed)
        results = [self._pass({n: _part(a, i, passes) for n, a in feeds.items()}) for i in range(passes)]
        self.cycles = passes * self.cycles_per_run()
        return [_joined([r[name] for r in results], rows) for name in names]

    def _checked(self, feeds: Mapping[str, Any]) -> tuple[dict[str, Array], int, int | None]:
        """Feeds as arrays of the inputs' types, how many passes they need, and the rows that count."""
        ports = {p.name: p for p in self.program.inputs}
        for name in feeds:
            if name not in ports:
                raise RunError(f"input {name!r} does not exist", f"the inputs are {', '.join(ports)}")
        arrays, passes, rows = {}, 1, None
        for name, port in ports.items():
            if name not in feeds:
                raise RunError(f"input {name!r} is missing", f"feed {port.dtype} of shape {list(port.shape)}")
            array = np.asarray(feeds[name])
            if array.dtype != TYPES[port.dtype]:
                raise RunError(
                    f"input {name!r} has type {array.dtype}; {port.dtype} is needed",
                    "convert it with .astype",
                )
            if array.shape != port.shape:
                passes, rows = self._batches(port, array)
                missing = passes * port.shape[0] - len(array)
                array = np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array
            arrays[name] = array
        return arrays, passes, rows

    def _batches(self, port: Port, array: Array) -> tuple[int, int]:
        if (
            array.ndim != len(port.shape)
            or array.shape[1:] != port.shape[1:]
            or not len(array)
            or not port.shape
        ):
            raise RunError(
                f"input {port.name!r} has shape {list(array.shape)}; {list(port.shape)} is needed",
                "compile with --shape for this size (only the batch may differ)",
            )
        return -(-len(array) // port.shape[0]), len(array)

    def _pass(self, feeds: dict[str, Array]) -> dict[str, Array]:
        if self._machine is None:
            self._machine = Machine(self.program, **(PLAIN if self.strict else {}))
        values: dict[str, Array] = dict(feeds)
        execute(self.program, self._machine, self._placed, values, self._cpu)
        return {port.name: _output(port, values, self._placed) for port in self.program.outputs}


def placed_by_name(program: Program) -> dict[str, Placed]:
    """The program's tensors in memory, by name."""
    return {p.tensor.name: p for p in program.placed}


def execute(
    program: Program, machine: Machine, placed: Mapping[str, Placed], values: dict[str, Array],
    cpu: Mapping[int, CpuPartition], on_ready: Callable[[Machine, int], None] | None = None,
) -> None:  # fmt: skip
    """Run all partitions in order. ``values`` holds arrays by name in ONNX's shapes; results are added to it."""
    for port in program.inputs:
        if port.tensor is not None and port.tensor in placed:
            tensor = placed[port.tensor].tensor
            values[port.tensor] = quantize(values[port.name], tensor.quantization)
    for number, partition in enumerate(program.partitions):
        if partition.placement == "cpu":
            values.update(cpu[number].run(values))
            continue
        for name in partition.inputs:
            machine.write(placed[name], to_memory(values[name], placed[name].tensor))
        machine.run(partition.begin, partition.end, on_ready=on_ready)
        for name in partition.outputs:
            values[name] = to_onnx(machine.read(placed[name]), placed[name].tensor)


def _output(port: Port, values: dict[str, Array], placed: Mapping[str, Placed]) -> Array:
    if port.name in values:
        return values[port.name]
    assert port.tensor is not None
    if np.issubdtype(TYPES[port.dtype], np.integer):  # indices
        return np.asarray(values[port.tensor].view("<i4")[..., 0].astype(TYPES[port.dtype]))
    return dequantize(values[port.tensor], placed[port.tensor].tensor.quantization)


def _part(array: Array, index: int, passes: int) -> Array:
    if passes == 1:
        return array
    size = len(array) // passes
    return array[index * size : (index + 1) * size]


def _joined(parts: list[Array], rows: int | None) -> Array:
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return whole if rows is None else whole[:rows]


def _program(source: Any, options: dict[str, Any]) -> Program:
    """The program in ``source``: itself, loaded, or compiled. Programs are known by their first bytes."""
    if isinstance(source, Program):
        return source
    if isinstance(source, str | Path):
        if Path(source).suffix == ".omm" or _starts_as_program(_first_bytes(Path(source))):
            return load(source)
    elif isinstance(source, bytes | bytearray | memoryview):
        source = bytes(source)
        if _starts_as_program(source):
            return load(source)
    return compiled(source, options)


def _first_bytes(path: Path) -> bytes:
    """What a file begins with; nothing where it cannot be read, which the compiler then says better."""
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError:
        return b""


def _starts_as_program(data: bytes) -> bool:
    """A safetensors file whose header begins with its metadata, as ``save`` writes it."""
    return data[8:24] == b'{"__metadata__":'
