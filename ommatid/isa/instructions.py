"""The instruction set, declared once.

A row of ``INSTRUCTIONS`` is one instruction: its engine, the fields of its descriptor, the memory operands
(which bytes it reads and writes), and one line on what it does. Encoder, decoder, NumPy dtype, assembler,
footprint, verifier and the tables of ``docs/isa.md`` derive from the rows; cost formulas (``cost.py``) and
kernels (``ommatid.simulator``) are looked up by mnemonic, and a row without them cannot be used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from ommatid.isa.target import Target

INSTRUCTION_BYTES = 128
MOST_CORES = 4
ISA_VERSION = 3


class Memory(IntEnum):
    """An address space. DRAM is shared; SRAM and accumulators belong to a core."""

    DRAM = 0
    SRAM = 1
    ACC = 2


class Engine(IntEnum):
    """A queue of a core; also the bit of that queue in the ``wait`` and ``signal`` masks."""

    LOAD = 0
    STORE = 1
    MX = 2
    VX = 3
    CTL = 4


class Mode(IntEnum):
    """What an operand does to its bytes."""

    READ = 1
    WRITE = 2
    UPDATE = 3  # reads and writes


@dataclass(frozen=True)
class Field:
    """One field of a descriptor: NumPy type code, unit, meaning, and limits (inclusive)."""

    name: str
    type: str
    meaning: str
    unit: str = ""
    low: int | None = None
    high: int | None = None
    step: int = 1
    choices: tuple[str, ...] = ()  # names of the values 0, 1, 2 ...


Records = Any  # a structured array of one instruction's dtype
Loops = list[tuple[Any, Any]]  # (count, stride in bytes), outermost last
Extent = Callable[[Records, Target], tuple[Any, Loops]]


@dataclass(frozen=True)
class Operand:
    """One memory operand: a run of bytes repeated by up to four loops, from the address in ``field``.

    ``extent(records, target)`` gives (run bytes, loops); a run of 0 means that the operand is absent.
    ``mode`` may be a function of the records where a flag turns a write into an update. ``cores`` gives a mask
    of the cores whose memory is meant, where that is not the instruction's own.
    """

    name: str
    memory: Memory
    mode: Mode | Callable[[Records], Any]
    field: str
    extent: Extent
    cores: Callable[[Records], Any] | None = None


@dataclass(frozen=True)
class Instruction:
    """One instruction of the set."""

    mnemonic: str
    opcode: int
    engine: Engine
    summary: str
    fields: tuple[Field, ...]
    operands: tuple[Operand, ...]


HEADER = (
    Field("opcode", "u1", "the instruction"),
    Field("core", "u1", "the core that executes it", high=MOST_CORES - 1),
    Field("reserved", "u2", "zero", high=0),
    Field("wait", "u4", "token queues to take one token from: bit 8 * core + engine of the producer"),
    Field("signal", "u4", "token queues to put one token into: bit 8 * core + engine of the consumer"),
)


def _address(name: str, memory: Memory, meaning: str, step: int = 1) -> Field:
    return Field(name, "u4", meaning, f"{memory.name} byte address", step=step)


def _stride(name: str, meaning: str) -> Field:
    return Field(name, "i4", meaning, "bytes")


def _count(name: str, meaning: str, low: int = 1) -> Field:
    return Field(name, "u2", meaning, low=low)


def _flag(name: str, meaning: str, *choices: str) -> Field:
    names = choices or ("no", "yes")
    return Field(name, "u1", meaning, high=len(names) - 1, choices=names)


def _zero(name: str, meaning: str) -> Field:
    return Field(name, "i2", meaning, low=-128, high=255)


def _u(value: Any) -> Any:
    return np.asarray(value, dtype=np.int64)


def _ceil(value: Any, by: int) -> Any:
    return -(-_u(value) // by)


# --- operand extents ------------------------------------------------------------------------------------


def _dma(side: str) -> Extent:
    def extent(r: Records, target: Target) -> tuple[Any, Loops]:
        return _u(r["run"]), [(_u(r[f"n{i}"]), _u(r[f"{side}_s{i}"])) for i in (1, 2, 3)]

    return extent


def _map3(prefix: str) -> Extent:
    """h x w x c bytes with row and pixel strides."""

    def extent(r: Records, target: Target) -> tuple[Any, Loops]:
        return _u(r["c"]), [(_u(r["w"]), _u(r[f"{prefix}_pixel"])), (_u(r["h"]), _u(r[f"{prefix}_row"]))]

    return extent


def _window_input(r: Records, target: Target) -> tuple[Any, Loops]:
    channels = "cin" if "cin" in r.dtype.names else "c"
    return _u(r[channels]), [(_u(r["in_w"]), _u(r["src_pixel"])), (_u(r["in_h"]), _u(r["src_row"]))]


def _out_image(r: Records, target: Target) -> tuple[Any, Loops]:
    return _u(r["c"]), [(_u(r["out_w"]), _u(r["dst_pixel"])), (_u(r["out_h"]), _u(r["dst_row"]))]


def conv_steps(r: Records, target: Target) -> Any:
    """Weight tiles along K for one group of output channels: K runs along the kernel row, or tap by tap."""
    k = target.mx_k_bytes
    per_row = np.where(r["row_mode"] == 1, _ceil(_u(r["kw"]) * r["cin"], k), _u(r["kw"]) * _ceil(r["cin"], k))
    return _u(r["kh"]) * per_row


def _conv_weights(r: Records, target: Target) -> tuple[Any, Loops]:
    groups = _ceil(r["cout"], target.mx_channels)
    return groups * conv_steps(r, target) * (target.mx_k_bytes * target.mx_channels), []


def _conv_accumulators(r: Records, target: Target) -> tuple[Any, Loops]:
    channels = "cout" if "cout" in r.dtype.names else "c"
    return _u(r[channels]) * 4, [(_u(r["out_h"]) * _u(r["out_w"]), _u(r["acc_pixel"]))]


def _accumulate_mode(r: Records) -> Any:
    return np.where(r["accumulate"] == 1, int(Mode.UPDATE), int(Mode.WRITE))


def _map_source(memory: Memory) -> Extent:
    def extent(r: Records, target: Target) -> tuple[Any, Loops]:
        from_acc = r["source"] == 1
        size = np.where(from_acc, 4, 1) * _u(r["c"])
        run = np.where(from_acc == (memory == Memory.ACC), size, 0)
        return run, [(_u(r["w"]), _u(r["src_pixel"])), (_u(r["h"]), _u(r["src_row"]))]

    return extent


def _map_parameters(r: Records, target: Target) -> tuple[Any, Loops]:
    per_channel = np.array([0, 8, 12])[r["source"]]
    return _u(r["c"]) * per_channel, []


def _map_operand(r: Records, target: Target) -> tuple[Any, Loops]:
    run = np.where(r["binary"] > 0, np.where(r["operand_c"] == 1, _u(r["c"]), 1), 0)
    return run, [(_u(r["w"]), _u(r["operand_pixel"])), (_u(r["h"]), _u(r["operand_row"]))]


def _table(flag: str) -> Extent:
    def extent(r: Records, target: Target) -> tuple[Any, Loops]:
        return np.where(r[flag] == 1, 256, 0), []

    return extent


def _topk(side: str, flag: str, size: int) -> Extent:
    """k elements of ``size`` bytes a pixel, where a flag is set."""

    def extent(r: Records, target: Target) -> tuple[Any, Loops]:
        run = np.where(r[flag] == 1, size * _u(r["k"]), 0)
        return run, [(_u(r["w"]), _u(r[f"{side}_pixel"])), (_u(r["h"]), _u(r[f"{side}_row"]))]

    return extent


def _copy(side: str) -> Extent:
    def extent(r: Records, target: Target) -> tuple[Any, Loops]:
        return _u(np.ones(len(r))), [(_u(r[f"n{i}"]), _u(r[f"{side}_s{i}"])) for i in range(4)]

    return extent


# --- field groups ---------------------------------------------------------------------------------------


def _dma_fields(source: Memory | None, destination: Memory) -> tuple[Field, ...]:
    sides = [("dst", destination)] if source is None else [("src", source), ("dst", destination)]
    return (
        *(_address(name, memory, f"first byte of the {memory.name} side") for name, memory in sides),
        Field("run", "u4", "contiguous bytes", "bytes", low=1),
        *(_count(f"n{i}", f"repetitions of loop {i}") for i in (1, 2, 3)),
        *(_stride(f"{name}_s{i}", f"{name} step of loop {i}") for name, _ in sides for i in (1, 2, 3)),
    )


_WINDOW = (
    _address("src", Memory.SRAM, "input element [0, 0, 0]"),
    _stride("src_row", "from one input row to the next"),
    _stride("src_pixel", "from one input pixel to the next"),
    _count("in_h", "input rows present"),
    _count("in_w", "input columns present"),
    Field("pad_top", "i2", "rows of padding above input row 0; negative: rows skipped"),
    Field("pad_left", "i2", "columns of padding left of input column 0; negative: columns skipped"),
    _count("kh", "kernel rows"),
    _count("kw", "kernel columns"),
    _count("stride_h", "input rows from one output row to the next"),
    _count("stride_w", "input columns from one output column to the next"),
    _count("dilation_h", "input rows between kernel rows"),
    _count("dilation_w", "input columns between kernel columns"),
    _count("out_h", "output rows"),
    _count("out_w", "output columns"),
    _zero("src_zero", "zero point of the input"),
    _flag("src_type", "input type", "u8", "i8"),
)

_ACCUMULATORS = (
    _address("acc", Memory.ACC, "accumulator of output pixel 0, channel 0", step=4),
    Field("acc_pixel", "u4", "from one output pixel to the next", "bytes", step=4),
    _flag("accumulate", "add to what the accumulators hold instead of overwriting it"),
    Field("acc_bytes", "u1", "width of an accumulator; 8 is reserved for 16-bit work", "bytes", 4, 4),
)

_IMAGE = (
    _count("h", "rows"),
    _count("w", "columns"),
    _count("c", "channels"),
)


def _side(name: str, what: str, memory: Memory = Memory.SRAM) -> tuple[Field, ...]:
    return (
        _address(name, memory, f"{what} element [0, 0, 0]"),
        _stride(f"{name}_row", f"from one {what} row to the next"),
        _stride(f"{name}_pixel", f"from one {what} pixel to the next"),
    )


def _src() -> Operand:
    return Operand("src", Memory.SRAM, Mode.READ, "src", _map3("src"))


def _dst() -> Operand:
    return Operand("dst", Memory.SRAM, Mode.WRITE, "dst", _map3("dst"))


INSTRUCTIONS: tuple[Instruction, ...] = (
    Instruction(
        "load", 1, Engine.LOAD, "Copies bytes from DRAM to SRAM.",
        (
            *_dma_fields(Memory.DRAM, Memory.SRAM),
            Field("multicast", "u1", "further cores whose SRAM gets the bytes too: bit c for core c", high=2**MOST_CORES - 1),
        ),
        (
            Operand("src", Memory.DRAM, Mode.READ, "src", _dma("src")),
            Operand("dst", Memory.SRAM, Mode.WRITE, "dst", _dma("dst"), lambda r: 1 << _u(r["core"]) | r["multicast"]),
        ),
    ),
    Instruction(
        "fill", 2, Engine.LOAD, "Fills SRAM bytes with a constant.",
        (*_dma_fields(None, Memory.SRAM), Field("value", "u1", "the byte")),
        (Operand("dst", Memory.SRAM, Mode.WRITE, "dst", _dma("dst")),),
    ),
    Instruction(
        "store", 3, Engine.STORE, "Copies bytes from SRAM to DRAM.",
        _dma_fields(Memory.SRAM, Memory.DRAM),
        (
            Operand("src", Memory.SRAM, Mode.READ, "src", _dma("src")),
            Operand("dst", Memory.DRAM, Mode.WRITE, "dst", _dma("dst")),
        ),
    ),
    Instruction(
        "conv", 4, Engine.MX, "Convolution or matrix multiplication of 8-bit weights into accumulators.",
        (
            *_WINDOW,
            _count("cin", "input channels"),
            _count("cout", "output channels"),
            _flag("row_mode", "K runs along the whole kernel row (src_pixel = cin, dilation_w = 1), not tap by tap"),
            _address("weights", Memory.SRAM, "weight tiles [cout group][step][k / 4][channel][k % 4]", 16),
            _zero("weights_zero", "zero point of the weights"),
            _flag("weights_type", "type of the weights", "u8", "i8"),
            *_ACCUMULATORS,
        ),
        (
            Operand("src", Memory.SRAM, Mode.READ, "src", _window_input),
            Operand("weights", Memory.SRAM, Mode.READ, "weights", _conv_weights),
            Operand("acc", Memory.ACC, _accumulate_mode, "acc", _conv_accumulators),
        ),
    ),
    Instruction(
        "dwconv", 5, Engine.MX, "Depthwise convolution: every channel with its own kernel.",
        (
            *_WINDOW,
            _count("c", "channels"),
            _address("weights", Memory.SRAM, "weights [kh][kw][channel], int8"),
            Field("weights_tap", "u4", "from one tap's weights to the next", "bytes"),
            *_ACCUMULATORS,
        ),
        (
            Operand("src", Memory.SRAM, Mode.READ, "src", _window_input),
            Operand(
                "weights", Memory.SRAM, Mode.READ, "weights",
                lambda r, t: (_u(r["c"]), [(_u(r["kh"]) * _u(r["kw"]), _u(r["weights_tap"]))]),
            ),
            Operand("acc", Memory.ACC, _accumulate_mode, "acc", _conv_accumulators),
        ),
    ),
    Instruction(
        "map", 6, Engine.VX, "Element by element: requantise or scale, table, add or multiply, table.",
        (
            *_IMAGE,
            _flag("source", "step 1: bytes as they are; requantise accumulators; scale and shift bytes", "bytes", "acc", "affine"),
            _flag("table1_on", "step 2 looks bytes up in table1"),
            _flag("binary", "step 3", "none", "add", "mul"),
            _flag("table2_on", "step 4 looks bytes up in table2"),
            _address("src", Memory.SRAM, "input element [0, 0, 0]; an ACC address where source is acc"),
            _stride("src_row", "from one input row to the next"),
            _stride("src_pixel", "from one input pixel to the next"),
            _zero("src_zero", "zero point of the input bytes (source affine)"),
            _flag("src_type", "type of the input bytes (source affine)", "u8", "i8"),
            _address("parameters", Memory.SRAM, "acc: int32 bias[c], float32 multiplier[c]; affine: float32 shift[c], multiplier[c], multiplier for negatives[c]", 4),
            _zero("mid_zero", "zero point after step 1 (acc, affine)"),
            _flag("mid_type", "type after step 1 (acc, affine)", "u8", "i8"),
            _address("table1", Memory.SRAM, "256 bytes, indexed by the byte's bits"),
            *_side("operand", "second operand"),
            _flag("operand_c", "the second operand has channels (1 byte apart); no: one byte serves a pixel"),
            _zero("a_zero", "zero point of the first operand"),
            _flag("a_type", "type of the first operand", "u8", "i8"),
            _zero("b_zero", "zero point of the second operand"),
            _flag("b_type", "type of the second operand", "u8", "i8"),
            _zero("r_zero", "zero point of the result of step 3"),
            _flag("r_type", "type of the result of step 3", "u8", "i8"),
            Field("a_factor", "f4", "add: r_a; mul: the multiplier of the product"),
            Field("b_factor", "f4", "add: r_b"),
            Field("addend", "f4", "add: z_c - fma(r_a, z_a, r_b * z_b)"),
            _address("table2", Memory.SRAM, "256 bytes, indexed by the byte's bits"),
            *_side("dst", "output"),
        ),
        (
            Operand("src", Memory.SRAM, Mode.READ, "src", _map_source(Memory.SRAM)),
            Operand("acc", Memory.ACC, Mode.READ, "src", _map_source(Memory.ACC)),
            Operand("parameters", Memory.SRAM, Mode.READ, "parameters", _map_parameters),
            Operand("table1", Memory.SRAM, Mode.READ, "table1", _table("table1_on")),
            Operand("operand", Memory.SRAM, Mode.READ, "operand", _map_operand),
            Operand("table2", Memory.SRAM, Mode.READ, "table2", _table("table2_on")),
            _dst(),
        ),
    ),
    Instruction(
        "pool", 7, Engine.VX, "Maximum or average over a window.",
        (
            *_WINDOW,
            _count("c", "channels"),
            _flag("kind", "what is computed", "max", "average"),
            _flag("count_pad", "average: divide by kh * kw, not by the taps inside the input"),
            Field("factor", "f4", "average: scale of input over scale of output"),
            _zero("dst_zero", "zero point of the output"),
            _flag("dst_type", "type of the output", "u8", "i8"),
            *_side("dst", "output"),
        ),
        (
            Operand("src", Memory.SRAM, Mode.READ, "src", _window_input),
            Operand("dst", Memory.SRAM, Mode.WRITE, "dst", _out_image),
        ),
    ),
    Instruction(
        "reduce", 8, Engine.VX, "Sums (q - zero point) over rows and columns into accumulators.",
        (
            *_IMAGE, *_side("src", "input"),
            _zero("src_zero", "zero point of the input"),
            _flag("src_type", "input type", "u8", "i8"),
            _address("acc", Memory.ACC, "int32 sums, one a channel", step=4),
            _flag("accumulate", "add to what the accumulators hold instead of overwriting it"),
        ),
        (
            _src(),
            Operand("acc", Memory.ACC, _accumulate_mode, "acc", lambda r, t: (_u(r["c"]) * 4, [])),
        ),
    ),
    Instruction(
        "resize", 9, Engine.VX, "Weighted sum of two rows by two columns of the input, by tables.",
        (
            _count("out_h", "output rows"), _count("out_w", "output columns"), _count("c", "channels"),
            _count("in_h", "input rows present"), _count("in_w", "input columns present"),
            *_side("src", "input"),
            _address("rows", Memory.SRAM, "per output row: u16 first, second input row, u16 weights (sum 2048)", 8),
            _address("columns", Memory.SRAM, "per output column: the same for columns", 8),
            _flag("taps", "input elements read per output element", "one", "four"),
            _zero("src_zero", "zero point of the input"),
            _flag("src_type", "input type", "u8", "i8"),
            Field("factor", "f4", "scale of input over (scale of output * 2**22)"),
            _zero("dst_zero", "zero point of the output"),
            _flag("dst_type", "type of the output", "u8", "i8"),
            *_side("dst", "output"),
        ),
        (
            Operand("src", Memory.SRAM, Mode.READ, "src", _window_input),
            Operand("rows", Memory.SRAM, Mode.READ, "rows", lambda r, t: (_u(r["out_h"]) * 8, [])),
            Operand("columns", Memory.SRAM, Mode.READ, "columns", lambda r, t: (_u(r["out_w"]) * 8, [])),
            Operand("dst", Memory.SRAM, Mode.WRITE, "dst", _out_image),
        ),
    ),
    Instruction(
        "softmax", 10, Engine.VX, "Softmax over the channels of every pixel.",
        (
            *_IMAGE, *_side("src", "input"),
            _address("table", Memory.SRAM, "uint32 exponentials of 0, -1, ... -255 steps", 4),
            _flag("src_type", "input type", "u8", "i8"),
            Field("factor", "f4", "1 / scale of output"),
            _zero("dst_zero", "zero point of the output"),
            _flag("dst_type", "type of the output", "u8", "i8"),
            *_side("dst", "output"),
        ),
        (
            _src(),
            Operand("table", Memory.SRAM, Mode.READ, "table", lambda r, t: (_u(np.full(len(r), 1024)), [])),
            _dst(),
        ),
    ),
    Instruction(
        "lrn", 11, Engine.VX, "Local response normalisation across channels, beta = 0.75.",
        (
            *_IMAGE, *_side("src", "input"),
            _count("size", "channels in the window"),
            _zero("src_zero", "zero point of the input"),
            _flag("src_type", "input type", "u8", "i8"),
            Field("alpha", "f4", "alpha / size * scale of input squared"),
            Field("bias", "f4", "bias"),
            Field("factor", "f4", "scale of input over scale of output"),
            _zero("dst_zero", "zero point of the output"),
            _flag("dst_type", "type of the output", "u8", "i8"),
            *_side("dst", "output"),
        ),
        (_src(), _dst()),
    ),
    Instruction(
        "norm", 15, Engine.VX, "Layer or root mean square normalisation over the channels of every pixel.",
        (
            *_IMAGE, *_side("src", "input"),
            _zero("src_zero", "zero point of the input"),
            _flag("src_type", "input type", "u8", "i8"),
            _flag("centre", "take the mean of a pixel's channels off"),
            _address("parameters", Memory.SRAM, "float32 multiplier[c], float32 shift[c]", 4),
            Field("epsilon", "f4", "epsilon * c**2 / scale of input squared; above 0"),
            _zero("dst_zero", "zero point of the output"),
            _flag("dst_type", "type of the output", "u8", "i8"),
            *_side("dst", "output"),
        ),
        (
            _src(),
            Operand("parameters", Memory.SRAM, Mode.READ, "parameters", lambda r, t: (_u(r["c"]) * 8, [])),
            _dst(),
        ),
    ),
    Instruction(
        "topk", 16, Engine.VX, "The k greatest or smallest channels of every pixel, and their numbers.",
        (
            *_IMAGE, *_side("src", "input"),
            _flag("src_type", "type of the input and of the values", "u8", "i8"),
            _count("k", "channels that are found, at most c"),
            _flag("order", "which come first", "largest", "smallest"),
            _flag("last", "of equal channels the one of the higher number comes first, not the lower"),
            _flag("values_on", "values are written"),
            *_side("dst", "value"),
            _flag("indices_on", "indices are written: int32, 4 bytes apart"),
            *_side("index", "index"),
        ),
        (
            _src(),
            Operand("dst", Memory.SRAM, Mode.WRITE, "dst", _topk("dst", "values_on", 1)),
            Operand("index", Memory.SRAM, Mode.WRITE, "index", _topk("index", "indices_on", 4)),
        ),
    ),
    Instruction(
        "copy", 12, Engine.VX, "Moves single bytes over four loops: transposition and rearrangement.",
        (
            _address("src", Memory.SRAM, "first input byte"),
            _address("dst", Memory.SRAM, "first output byte"),
            *(_count(f"n{i}", f"repetitions of loop {i}, innermost first") for i in range(4)),
            *(_stride(f"src_s{i}", f"input step of loop {i}") for i in range(4)),
            *(_stride(f"dst_s{i}", f"output step of loop {i}") for i in range(4)),
        ),
        (
            Operand("src", Memory.SRAM, Mode.READ, "src", _copy("src")),
            Operand("dst", Memory.SRAM, Mode.WRITE, "dst", _copy("dst")),
        ),
    ),
    Instruction(
        "send", 14, Engine.STORE, "Copies bytes from SRAM to another core's SRAM.",
        (*_dma_fields(Memory.SRAM, Memory.SRAM), Field("peer", "u1", "the core that receives", high=MOST_CORES - 1)),
        (
            Operand("src", Memory.SRAM, Mode.READ, "src", _dma("src")),
            Operand("dst", Memory.SRAM, Mode.WRITE, "dst", _dma("dst"), lambda r: 1 << _u(r["peer"])),
        ),
    ),
    Instruction("end", 13, Engine.CTL, "Ends a partition: its tokens say that all of it is done.", (), ()),
)  # fmt: skip

BY_MNEMONIC: dict[str, Instruction] = {row.mnemonic: row for row in INSTRUCTIONS}
BY_OPCODE: dict[int, Instruction] = {row.opcode: row for row in INSTRUCTIONS}
MAX_OPERANDS = max(len(row.operands) for row in INSTRUCTIONS)


def _layout(row: Instruction) -> np.dtype[Any]:
    """The structured dtype of a row: header, then the fields by falling size, so all are aligned."""
    names, formats, offsets, at = [], [], [], 0
    by_size = sorted(row.fields, key=lambda f: -np.dtype(f.type).itemsize)
    for field in (*HEADER, *by_size):
        size = np.dtype(field.type).itemsize
        if at % size:
            raise TypeError(f"{row.mnemonic}.{field.name}: offset {at} is not aligned to {size} bytes")
        names.append(field.name)
        formats.append("<" + field.type)
        offsets.append(at)
        at += size
    if at > INSTRUCTION_BYTES:
        raise TypeError(f"{row.mnemonic}: {at} bytes of fields do not fit in {INSTRUCTION_BYTES}")
    if len(set(names)) != len(names):
        raise TypeError(f"{row.mnemonic}: a field name occurs twice")
    for operand in row.operands:
        if operand.field not in names:
            raise TypeError(f"{row.mnemonic}: operand {operand.name} names no field {operand.field!r}")
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": INSTRUCTION_BYTES})


DTYPES: dict[str, np.dtype[Any]] = {row.mnemonic: _layout(row) for row in INSTRUCTIONS}

#: The dtype of an instruction stream: the header of every descriptor, then its body as bytes.
STREAM = np.dtype(
    {
        "names": [f.name for f in HEADER] + ["body"],
        "formats": ["<" + f.type for f in HEADER] + ["V116"],
        "offsets": [0, 1, 2, 4, 8, 12],
        "itemsize": INSTRUCTION_BYTES,
    }
)


def view(stream: np.ndarray[Any, Any], mnemonic: str) -> np.ndarray[Any, Any]:
    """The stream's bytes as records of one instruction, without copying; meaningful where the opcode is its."""
    return stream.view(DTYPES[mnemonic])


_ENGINE_OF = np.array([BY_OPCODE[op].engine if op in BY_OPCODE else 0 for op in range(256)], np.int64)


def queues(stream: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The number of each instruction's queue, its bit in the masks of tokens: 8 * core + engine (int64)."""
    return _ENGINE_OF[stream["opcode"]] + 8 * stream["core"].astype(np.int64)


def queues_of_mask(mask: Any) -> list[int]:
    """The numbers of the queues in a mask of tokens."""
    return [bit for bit in range(8 * MOST_CORES) if int(mask) >> bit & 1]
