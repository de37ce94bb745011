"""A program: everything that the chip and its host need to run one network, as plain data.

A ``.omm`` file (``program_file.py``) is its serialisation.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ommatid.isa.elements import NUMBER, TYPES, ElementType
from ommatid.isa.instructions import MAX_OPERANDS, STREAM
from ommatid.isa.target import Target

FORMAT_VERSION = 3

#: A named range of memory. ``role`` indexes ROLES; ``layer`` is the layer it serves, -1 for several.
SYMBOL = np.dtype([("memory", "u1"), ("role", "u1"), ("layer", "<i4"), ("address", "<u4"), ("bytes", "<u4")])
ROLES = ("constants", "instructions", "input", "output", "activation", "weights", "tile", "accumulator")


@dataclass(frozen=True)
class Quantization:
    """``real = scale * (q - zero_point)``, ``dtype`` is that of one of ``elements.TYPES``; scale is a float32 value."""

    scale: float
    zero_point: int
    dtype: str

    @property
    def kind(self) -> ElementType:
        """What a code is."""
        return TYPES[NUMBER[self.dtype]]


@dataclass(frozen=True)
class Tensor:
    """A quantised activation as it lies in memory.

    ``shape`` is the dense row-major order of its bytes (channels last); the ONNX tensor is
    ``memory.reshape(shape).transpose(to_onnx).reshape(onnx_shape)``.
    """

    name: str
    shape: tuple[int, ...]
    quantization: Quantization
    onnx_shape: tuple[int, ...]
    to_onnx: tuple[int, ...]


@dataclass(frozen=True)
class Placed:
    """Where a tensor lies: ``strides`` in bytes along ``tensor.shape``.

    ``ready`` is the index of the instruction after which (in program order) all of it has been written:
    0 for what is there from the start; ``until`` the index before which it may still be read.

    Of a tensor that cores hold parts of, ``held`` has (core, begin, end): bytes ``begin`` to before ``end`` of the
    tensor's buffer lie in that core's SRAM from the symbol's address on, and ``address`` is where the tensor would begin
    if all of the buffer lay there.
    """

    tensor: Tensor
    symbol: int
    memory: int
    address: int
    strides: tuple[int, ...]
    ready: int
    until: int
    layer: int  # the layer that wrote it, -1: the host or a CPU partition
    held: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class Layer:
    """One row of the profile: what a run of instructions does for the network."""

    name: str
    op: str
    nodes: tuple[str, ...]  # names of the ONNX nodes it came from
    macs: int
    roofline_cycles: float


#: What may become of a node of the user's model.
FATES = ("executed", "fused", "folded", "cpu")


@dataclass(frozen=True)
class Node:
    """A node of the user's model, and what became of it (one of FATES), in which layers, by name."""

    name: str
    op: str
    fate: str
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Partition:
    """A part of the network that runs in one piece, in program order.

    On the NPU: instructions ``begin`` to ``end``. On the CPU: ``model``, an ONNX model (bytes) whose inputs
    and outputs are quantised tensors by name, or the network's own inputs and outputs.
    """

    placement: str  # "npu" or "cpu"
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    begin: int = 0
    end: int = 0
    model: bytes = b""
    nodes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Port:
    """An input or output of the network, as the ONNX model declares it.

    Where ``tensor`` is set, the host quantises (input) or dequantises (output) that quantised tensor to or
    from ``dtype``; otherwise a CPU partition reads or writes it as it is.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str  # ONNX's spelling in onnxruntime: "tensor(float)"
    tensor: str | None


@dataclass
class Program:
    """One network for one target, at one shape of its inputs; ``others`` are the same network at other shapes."""

    target: Target
    instructions: np.ndarray[Any, Any]  # STREAM records in an order that is right one at a time
    operands: np.ndarray[Any, Any]  # int32 [instruction, MAX_OPERANDS]: the symbol of each operand, or -1
    layer_of: np.ndarray[Any, Any]  # int32 [instruction]: index into layers, -1: none
    constants: np.ndarray[Any, Any]  # uint8: DRAM from address 0
    symbols: np.ndarray[Any, Any]  # SYMBOL records
    layers: tuple[Layer, ...]
    placed: tuple[Placed, ...]  # every tensor that lies in memory, in order of ``ready``
    partitions: tuple[Partition, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    dram_bytes: int  # DRAM that the program uses, instructions included
    lower_bound_cycles: float
    roofline_cycles: float
    compulsory_dram_bytes: int
    metadata: dict[str, str] = field(default_factory=dict)  # the ONNX model's own
    info: dict[str, Any] = field(default_factory=dict)  # how it was made: options, versions, preprocessing
    nodes: tuple[Node, ...] = ()  # the user's, in their order
    others: tuple[Program, ...] = ()  # of the same inputs and outputs by name; these have no others

    @property
    def variants(self) -> tuple[Program, ...]:
        """A program for each shape, this one first, each alone."""
        return (dataclasses.replace(self, others=()), *self.others) if self.others else (self,)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run, those of CPU partitions left out."""
        return sum(layer.macs for layer in self.layers)

    def save(self, path: str) -> None:
        """Write the ``.omm`` file; it appears whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        from ommatid.isa.program_file import save

        save(self, path)


def empty_program(target: Target) -> Program:
    """A program without instructions, for assembling by hand and for tests."""
    return Program(
        target=target,
        instructions=np.zeros(0, STREAM),
        operands=np.zeros((0, MAX_OPERANDS), np.int32),
        layer_of=np.zeros(0, np.int32),
        constants=np.zeros(0, np.uint8),
        symbols=np.zeros(0, SYMBOL),
        layers=(),
        placed=(),
        partitions=(),
        inputs=(),
        outputs=(),
        dram_bytes=0,
        lower_bound_cycles=0.0,
        roofline_cycles=0.0,
        compulsory_dram_bytes=0,
    )
