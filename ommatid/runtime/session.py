"""``InferenceSession``: onnxruntime's signature, on the simulated NPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ommatid.compiler.errors import CompileError
from ommatid.isa.program import Placed, Port, Program
from ommatid.isa.program_file import load
from ommatid.runtime.cache import compiled
from ommatid.runtime.host import CpuPartition, dequantize, quantize, to_memory, to_onnx
from ommatid.runtime.variants import Plan, RunError, Shapes, joined, padded, part, plan, shapes_of
from ommatid.simulator.functional import PLAIN, Machine
from ommatid.simulator.timing import simulate

Array = np.ndarray[Any, Any]
PROVIDER = "OmmatidExecutionProvider"
TYPES: dict[str, Any] = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(bool)": np.bool_, "tensor(string)": np.object_,
    **{f"tensor({kind}{bits})": np.dtype(f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    "tensor(float16)": np.float16,
}  # fmt: skip


#: What becomes of feeds whose shapes no variant has; each falls back on the next.
NEW_SHAPES = ("pad", "compile", "refuse")


@dataclass(frozen=True)
class NodeArg:
    """An input or output, as onnxruntime describes it."""

    name: str
    shape: list[int | None]  # None: variants differ
    type: str


class InferenceSession:
    """Run a network on the simulated NPU, with onnxruntime's calls.

    ``path_or_bytes`` is a Program, an ``.omm`` file, an ``.onnx`` file, or the bytes of either; an ONNX model
    is compiled, and the result kept in a cache on disk. ``options`` are those of ``ommatid.compile``. ``strict``
    executes in the plainest way: no choice by CPU, one thread, the same bits.

    ``on_new_shape`` says what becomes of feeds whose shapes no variant has. "pad": the smallest variant that fits
    runs them, padded and cropped as ``variants.py`` says, else as "compile". "compile": a session made from an ONNX
    model compiles it for these shapes, with the ranges of its program, and keeps the result in the cache; else as
    "refuse". "refuse": RunError.

    Raises:
        CompileError, TargetError, ProgramFileError: the model or program cannot be used.
    """

    def __init__(
        self, path_or_bytes: Any, sess_options: Any = None, providers: Sequence[Any] | None = None,
        provider_options: Any = None, strict: bool = False, on_new_shape: str = "pad", **options: Any,
    ) -> None:  # fmt: skip
        if on_new_shape not in NEW_SHAPES:
            raise RunError(f"on_new_shape = {on_new_shape!r}", f"it is one of {', '.join(NEW_SHAPES)}")
        self.program, self._is_model = _program(path_or_bytes, options)
        self.strict = strict
        self.cycles = 0
        self._source, self._options = path_or_bytes, options
        self._on_new_shape = on_new_shape
        self._variants = self.program.variants
        self._loaded = [Loaded(variant, strict) for variant in self._variants]
        self._on_demand: dict[tuple[Any, ...], Loaded] = {}

    def get_inputs(self) -> list[NodeArg]:
        """The network's inputs."""
        return _described([variant.inputs for variant in self._variants])

    def get_outputs(self) -> list[NodeArg]:
        """The network's outputs."""
        return _described([variant.outputs for variant in self._variants])

    def get_providers(self) -> list[str]:
        """The provider's name, alone."""
        return [PROVIDER]

    def get_modelmeta(self) -> Any:
        """The model's metadata: ``custom_metadata_map``."""
        return SimpleNamespace(custom_metadata_map=dict(self.program.metadata))

    def cycles_per_run(self) -> int:
        """Simulated cycles of one pass of the program's first variant, CPU partitions left out."""
        return self._loaded[0].cycles

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None
    ) -> list[Array]:
        """The outputs named (None: all) for these feeds; ``cycles`` is then what the run took.

        A batch larger than the program's runs as several passes.

        Raises:
            RunError: an input is missing, unknown, or of another type, or of a shape that the session refuses.
        """
        names = list(output_names) if output_names else [p.name for p in self.program.outputs]
        known = [p.name for p in self.program.outputs]
        for name in names:
            if name not in known:
                raise RunError(f"output {name!r} does not exist", f"the outputs are {', '.join(known)}")
        feeds = self._checked(input_feed)
        tensors = {p.name for p in self.program.inputs if p.dtype.startswith("tensor")}
        loaded, how = self._planned({n: a.shape if n in tensors else () for n, a in feeds.items()})
        results = loaded.run(feeds, how)
        self.cycles = how.passes * loaded.cycles
        return [results[name] for name in names]

    def _checked(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Feeds as arrays of the inputs' types."""
        ports = {p.name: p for p in self.program.inputs}
        for name in feeds:
            if name not in ports:
                raise RunError(f"input {name!r} does not exist", f"the inputs are {', '.join(ports)}")
        arrays = {}
        for name, port in ports.items():
            if name not in feeds:
                raise RunError(f"input {name!r} is missing", f"feed {port.dtype} of shape {list(port.shape)}")
            if not port.dtype.startswith("tensor"):  # a sequence, as it is
                arrays[name] = feeds[name]
                continue
            arrays[name] = np.asarray(feeds[name])
            if port.dtype == "tensor(string)":
                arrays[name] = arrays[name].astype(np.object_)
            if arrays[name].dtype != TYPES.get(port.dtype):
                raise RunError(
                    f"input {name!r} has type {arrays[name].dtype}; {port.dtype} is needed",
                    "convert it with .astype",
                )
        return arrays

    def _planned(self, shapes: Shapes) -> tuple[Loaded, Plan]:
        """What runs feeds of these shapes, and how."""
        why: RunError | None = None
        try:
            how = plan(self._variants, shapes, self._on_new_shape == "pad" and len(self._variants) > 1)
            if how is not None:
                return self._loaded[how.variant], how
        except RunError as error:
            why = error
        if not self._is_model or self._on_new_shape == "refuse" or any(0 in s for s in shapes.values()):
            raise self._refused(shapes, why)
        try:
            loaded = self._compiled(shapes)
        except CompileError as error:
            raise self._refused(shapes, error) from None
        how = plan([loaded.program], shapes, False)
        assert how is not None
        return loaded, how

    def _compiled(self, shapes: Shapes) -> Loaded:
        """The model compiled for these shapes, with the ranges of the variants."""
        key = tuple(sorted(shapes.items()))
        if key not in self._on_demand:
            at = self.program.info.get("calibrated_at") or shapes_of(self.program.inputs)
            options = self._options | {"shapes": dict(shapes), "calibrate_at": at}
            self._on_demand[key] = Loaded(compiled(self._source, options), self.strict)
        return self._on_demand[key]

    def _refused(self, shapes: Shapes, why: RunError | CompileError | None) -> RunError:
        """An error that names the shapes held, and why no other way was left."""
        held = [shapes_of(variant.inputs) for variant in self._variants]
        odd = [n for n, s in shapes.items() if 0 in s or all(h[n][1:] != s[1:] for h in held)]
        needed = {n: " or ".join(dict.fromkeys(str(list(h[n])) for h in held)) for n in odd or shapes}
        told = "; ".join(f"input {n!r} has shape {list(shapes[n])}; {needed[n]} is needed" for n in needed)
        return RunError(
            told + (f": {why}" if why else ""),
            (why and why.hint) or "compile with --shape for this size (only the batch may differ)",
        )


class Loaded:
    """One variant, with the machine that runs it, made at its first run."""

    def __init__(self, program: Program, strict: bool) -> None:
        self.program = program
        self._strict = strict
        self._placed = placed_by_name(program)
        self._cpu = {i: CpuPartition(p) for i, p in enumerate(program.partitions) if p.placement == "cpu"}

    @cached_property
    def cycles(self) -> int:
        """Simulated cycles of one pass, CPU partitions left out."""
        npu = [p for p in self.program.partitions if p.placement == "npu"]
        return sum(simulate(self.program, p.begin, p.end).cycles for p in npu)

    @cached_property
    def _machine(self) -> Machine:
        return Machine(self.program, **(PLAIN if self._strict else {}))

    def run(self, feeds: Mapping[str, Array], how: Plan) -> dict[str, Array]:
        """The outputs by name, padding left out."""
        whole = {
            port.name: padded(feeds[port.name], port.shape, how.passes, self._zero(port))
            for port in self.program.inputs
        }
        results = [
            self._pass({n: part(a, i, how.passes) for n, a in whole.items()}) for i in range(how.passes)
        ]
        return {name: joined([r[name] for r in results], shape) for name, shape in how.outputs.items()}

    def _zero(self, port: Port) -> int:
        """What stands for zero in an input: the zero point where the input is quantised already."""
        own = self._placed.get(port.name) if port.tensor is None else None
        return own.tensor.quantization.zero_point if own is not None else 0

    def _pass(self, feeds: dict[str, Array]) -> dict[str, Array]:
        values: dict[str, Array] = dict(feeds)
        execute(self.program, self._machine, self._placed, values, self._cpu)
        return {port.name: _output(port, values, self._placed) for port in self.program.outputs}


def _described(ports: Sequence[Sequence[Port]]) -> list[NodeArg]:
    """Inputs or outputs of all variants as one."""
    return [
        NodeArg(same[0].name, [s[0] if len(set(s)) == 1 else None for s in zip(*(p.shape for p in same), strict=True)],
                same[0].dtype)
        for same in zip(*ports, strict=True)
    ]  # fmt: skip


def placed_by_name(program: Program) -> dict[str, Placed]:
    """The program's tensors in memory, by name."""
    return {p.tensor.name: p for p in program.placed}


def execute(
    program: Program, machine: Machine, placed: Mapping[str, Placed], values: dict[str, Array],
    cpu: Mapping[int, CpuPartition], on_ready: Callable[[Machine, Placed], None] | None = None,
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
    real = dequantize(values[port.tensor], placed[port.tensor].tensor.quantization)
    return real.astype(TYPES[port.dtype], copy=False)


def _program(source: Any, options: dict[str, Any]) -> tuple[Program, bool]:
    """The program in ``source``: itself, loaded, or compiled, and whether compiled: from a model.

    Programs are known by their first bytes.
    """
    if isinstance(source, Program):
        return source, False
    if isinstance(source, str | Path):
        if Path(source).suffix == ".omm" or _starts_as_program(_first_bytes(Path(source))):
            return load(source), False
    elif isinstance(source, bytes | bytearray | memoryview):
        source = bytes(source)
        if _starts_as_program(source):
            return load(source), False
    return compiled(source, options), True


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
