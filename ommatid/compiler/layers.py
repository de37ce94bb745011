"""A layer: one operator of the quantised network on the NPU, as plain data.

The front of the compiler (import to partition) makes a ``Network`` of layers; the back (fuse to emit) turns
them into instructions. Shapes here are as the bytes lie in memory, channels last: a tensor of shape
(n, h, w, c). Tensors of fewer dimensions are read as if 1s stood after the first: (n, c) is (n, 1, 1, c),
(n, t, c) is (n, 1, t, c), (c,) is (1, 1, 1, c); of more than four dimensions the first are one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ommatid.compiler.origins import Source
from ommatid.isa.program import Partition, Port, Tensor

Array = np.ndarray[Any, Any]


@functools.lru_cache(maxsize=4096)
def nhwc(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The four dimensions that a layer sees in a memory shape; of more than four the first are one."""
    if len(shape) > 4:
        return math.prod(shape[:-3]), *shape[-3:]  # type: ignore[return-value]
    if len(shape) < 2:
        shape = (1,) * (2 - len(shape)) + tuple(shape)
    return (shape[0], *(1,) * (4 - len(shape)), *shape[1:])  # type: ignore[return-value]


# --- what may follow in the same pass of the vector engine ---------------------------------------------


@dataclass(frozen=True, eq=False)
class Table:
    """Each element replaced by what ``values``, as in ``tables.py``, make of it."""

    values: Array


@dataclass(frozen=True)
class Binary:
    """``kind`` "add" or "mul" with tensor ``other`` (its dims equal or 1, any of h, w, c; n equal or 1).

    ``a``, ``b``, ``r`` are (zero point, dtype) of the value so far, of ``other`` and of the result. Factors as
    in the ``map`` instruction: add computes fma(a, a_factor, fma(b, b_factor, addend)) on raw integers, mul
    (a - z_a) * (b - z_b) * a_factor.
    """

    kind: str
    other: str
    a: tuple[int, str]
    b: tuple[int, str]
    r: tuple[int, str]
    a_factor: float
    b_factor: float
    addend: float


Step = Table | Binary


# --- layers --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Window:
    """A sliding window: (rows, columns) each; ``pads`` is (top, left, bottom, right)."""

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class Conv:
    """Convolution, depthwise convolution, Gemm and MatMul with constant weights.

    ``weights`` int8 [cout, kh, kw, cin / groups], ``bias`` int32 [cout], ``multipliers`` float32 [cout]
    (design 3.4); ``mid`` is (zero point, dtype) after requantisation. A transposed convolution has
    ``upsample`` (rows, columns) above (1, 1): window and pads are then those of the equal plain convolution
    over the input with upsample - 1 zeros between pixels, strides 1, weights already flipped. ``runs`` are ranges of
    output channels as computed (first, after the last) with the channel of the output that the first of each becomes;
    none: all are where they are computed.
    """

    weights: Array
    bias: Array
    multipliers: Array
    window: Window
    groups: int
    mid: tuple[int, str]
    upsample: tuple[int, int] = (1, 1)
    runs: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, eq=False)
class MatMul:
    """out[b, row, column] = the sum over k of left[b, row, k] * right[b, k, column]; both inputs are activations.

    ``batch`` are the sizes of b's dimensions. ``left``, ``right`` and ``out`` name, for each of these and then for the
    matrix's rows and columns, the dimension of the tensor's memory shape; -1: it has none, or it is broadcast.
    Columns of ``out`` are its last dimension. ``multiplier`` = fl32(fl32(s_left * s_right) / s_out); ``mid`` is (zero
    point, dtype) after requantisation.
    """

    batch: tuple[int, ...]
    rows: int
    inner: int
    columns: int
    left: tuple[int, ...]
    right: tuple[int, ...]
    out: tuple[int, ...]
    multiplier: float
    mid: tuple[int, str]


@dataclass(frozen=True, eq=False)
class Map:
    """Element by element. ``affine`` is None (elements as they are) or float32 [3, c]: shift, multiplier and
    multiplier for negatives of t = fma(q - z, m, shift), requantised to ``mid`` (zero point, dtype)."""

    affine: Array | None = None
    mid: tuple[int, str] | None = None


@dataclass(frozen=True, eq=False)
class Pool:
    """``kind`` "max" or "average"; ``factor`` is scale of input over scale of output (average)."""

    kind: str
    window: Window
    count_pad: bool = False
    factor: float = 1.0


@dataclass(frozen=True, eq=False)
class Mean:
    """Mean over rows and columns: requantised sums; ``factor`` = fl32(s_x / (n * s_y)); ``mid`` is (zero
    point, dtype) after requantisation."""

    factor: float
    mid: tuple[int, str]


@dataclass(frozen=True, eq=False)
class Resize:
    """``rows`` and ``columns``: uint16 [out, 4]: first, second input index and their weights (sum 2048).
    ``taps`` is 1 (nearest) or 4 (linear); ``factor`` = fl32(s_x / (s_y * 2**22))."""

    rows: Array
    columns: Array
    taps: int
    factor: float


@dataclass(frozen=True, eq=False)
class Softmax:
    """Over the last dimension; ``table`` uint32 [256], [512] for 16 bits; ``factor`` = fl32(1 / s_y)."""

    table: Array
    factor: float


@dataclass(frozen=True, eq=False)
class Lrn:
    """Across channels, beta = 0.75; fields as in the ``lrn`` instruction."""

    size: int
    alpha: float
    bias: float
    factor: float


@dataclass(frozen=True, eq=False)
class Norm:
    """Over the last dimension: layer normalisation, or without ``centre`` root mean square normalisation. Fields as
    in the ``norm`` instruction; ``factors`` float32 [2, c]: multiplier and shift."""

    factors: Array
    epsilon: float
    centre: bool


INDEX_BYTES = 4  # of an index: int32


@dataclass(frozen=True, eq=False)
class TopK:
    """Of the last dimension the first ``k``, the greatest or the least first, of equal ones that of the lower or
    (``last``) higher index: bytes as they are, or with ``indices`` their INDEX_BYTES each. Tensors are dense."""

    k: int
    largest: bool
    last: bool
    indices: bool


@dataclass(frozen=True, eq=False)
class Concat:
    """Inputs one after the other along ``axis`` of the memory shape, ``tables`` (or None) applied to each."""

    axis: int
    tables: tuple[Array | None, ...]


@dataclass(frozen=True, eq=False)
class Slice:
    """output = input[starts + steps * i] along every dimension of the memory shape (any rank, steps >= 1)."""

    starts: tuple[int, ...]
    steps: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Pad:
    """Constant padding: ``before`` elements along every dimension of the memory shape, filled with the code
    ``value``."""

    before: tuple[int, ...]
    value: int


@dataclass(frozen=True, eq=False)
class Transpose:
    """output[i_perm] = input[i] as np.transpose(input, perm) on the memory shape (any rank up to six)."""

    perm: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class View:
    """The same bytes under another shape; costs nothing."""


Operation = (
    Conv
    | MatMul
    | Map
    | Pool
    | Mean
    | Resize
    | Softmax
    | Lrn
    | Norm
    | TopK
    | Concat
    | Slice
    | Pad
    | Transpose
    | View
)


@dataclass(frozen=True, eq=False)
class Layer:
    """One operation. ``inputs[0]`` is its main input; Concat has several; operands of steps are named there
    and not here. ``steps`` follow the operation in order: at most [Table] [Binary] [Table] for Conv, Map and
    Mean, [Table] for MatMul, none for others. ``nodes`` are the ONNX nodes (for people), ``op`` the ONNX operator's name."""

    name: str
    op: str
    nodes: tuple[str, ...]
    operation: Operation
    inputs: tuple[str, ...]
    output: str
    steps: tuple[Step, ...] = ()
    macs: int = 0

    @property
    def input_name(self) -> str:
        """The main input."""
        return self.inputs[0]


@dataclass(frozen=True)
class Stage:
    """A partition before code generation: layers for the NPU in order, or ``cpu``, a finished partition."""

    layers: tuple[Layer, ...] = ()
    cpu: Partition | None = None


@dataclass(frozen=True)
class Network:
    """What the front of the compiler hands to the back.

    ``tensors`` holds every quantised tensor by name. ``kept`` are those that must lie in DRAM at the end of
    their stage: read by a CPU partition or the host (network outputs). Host and CPU partitions write
    ``fed``: network inputs and CPU results. ``constants`` are the bits (uint8 or int16, in memory order) of tensors
    that nobody writes: they lie in the constant image. ``notes`` is what the program says of its quantisation.
    ``sources`` are the user's nodes, by whose names layers and CPU partitions call theirs.
    """

    tensors: Mapping[str, Tensor]
    stages: tuple[Stage, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    fed: frozenset[str]
    kept: frozenset[str]
    metadata: Mapping[str, str]
    constants: Mapping[str, Array] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()

    @functools.cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of all stages in order: their places are the numbers by which the back calls them."""
        return tuple(layer for stage in self.stages for layer in stage.layers)
