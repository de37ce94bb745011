"""The instruction set, declared once.

A row of ``INSTRUCTIONS`` is one instruction: its engine, the fields of its descriptor, the memory operands
(which bytes it reads and writes), and one line on what it does. Encoder, decoder, NumPy dtype, assembler,
footprint, verifier and the tables of ``docs/isa.md`` derive from the rows; cost formulas (``cost.py``) and
kernels (``ommatid.simulator``) are looked up by mnemonic, and a row without them cannot be used.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa import operands as of
from ommatid.isa.declaration import HEADER, MOST_CORES, Engine, Field, Instruction, Memory, Mode, Operand
from ommatid.isa.elements import TABLES, TYPES

__all__ = [
    "BY_MNEMONIC", "BY_OPCODE", "DTYPES", "HEADER", "INSTRUCTIONS", "INSTRUCTION_BYTES", "ISA_VERSION", "MAX_OPERANDS",
    "MOST_CORES", "STREAM", "Engine", "Field", "Instruction", "Memory", "Mode", "Operand", "queues", "queues_of_mask",
    "view",
]  # fmt: skip

INSTRUCTION_BYTES = 128
ISA_VERSION = 4


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


def _type(name: str, meaning: str) -> Field:
    return _flag(name, meaning, *(kind.name for kind in TYPES))


def _table(number: int) -> Field:
    return _flag(
        f"table{number}_on",
        f"step {2 * number} looks elements up in table{number}",
        *(t.name for t in TABLES),
    )


def _acc_bytes(meaning: str) -> Field:
    return Field("acc_bytes", "u1", meaning, "bytes", 4, 8, 4)


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
    _type("src_type", "input type"),
)

_ACCUMULATORS = (
    _address("acc", Memory.ACC, "accumulator of output pixel 0, channel 0", step=4),
    Field("acc_pixel", "u4", "from one output pixel to the next", "bytes", step=4),
    _flag("accumulate", "add to what the accumulators hold instead of overwriting it"),
    _acc_bytes("width of an accumulator: 8 with src_type i16, else 4"),
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


def _src(channels: str = "c", h: str = "h", w: str = "w") -> Operand:
    return Operand(
        "src", Memory.SRAM, Mode.READ, "src", of.image("src", channels, h, w), of.typed("src_type")
    )


def _dst(h: str = "h", w: str = "w") -> Operand:
    return Operand("dst", Memory.SRAM, Mode.WRITE, "dst", of.image("dst", "c", h, w), of.typed("dst_type"))


def _acc(channels: str) -> Operand:
    return Operand(
        "acc", Memory.ACC, of.accumulate_mode, "acc", of.accumulators(channels), of.said("acc_bytes")
    )


INSTRUCTIONS: tuple[Instruction, ...] = (
    Instruction(
        "load", 1, Engine.LOAD, "Copies bytes from DRAM to SRAM.",
        (
            *_dma_fields(Memory.DRAM, Memory.SRAM),
            Field("multicast", "u1", "further cores whose SRAM gets the bytes too: bit c for core c", high=2**MOST_CORES - 1),
        ),
        (
            Operand("src", Memory.DRAM, Mode.READ, "src", of.dma("src")),
            Operand("dst", Memory.SRAM, Mode.WRITE, "dst", of.dma("dst"), cores=lambda r: 1 << of.whole(r["core"]) | r["multicast"]),
        ),
    ),
    Instruction(
        "fill", 2, Engine.LOAD, "Fills SRAM bytes with a constant.",
        (*_dma_fields(None, Memory.SRAM), Field("value", "u1", "the byte")),
        (Operand("dst", Memory.SRAM, Mode.WRITE, "dst", of.dma("dst")),),
    ),
    Instruction(
        "store", 3, Engine.STORE, "Copies bytes from SRAM to DRAM.",
        _dma_fields(Memory.SRAM, Memory.DRAM),
        (
            Operand("src", Memory.SRAM, Mode.READ, "src", of.dma("src")),
            Operand("dst", Memory.DRAM, Mode.WRITE, "dst", of.dma("dst")),
        ),
    ),
    Instruction(
        "conv", 4, Engine.MX, "Convolution or matrix multiplication of 8-bit or 16-bit weights into accumulators.",
        (
            *_WINDOW,
            _count("cin", "input channels"),
            _count("cout", "output channels"),
            _flag("row_mode", "K runs along the whole kernel row (pixels dense, dilation_w = 1), not tap by tap"),
            _address("weights", Memory.SRAM, "weight tiles [cout group][step][k / 4][channel][k % 4]", 16),
            _zero("weights_zero", "zero point of the weights"),
            _type("weights_type", "type of the weights"),
            *_ACCUMULATORS,
        ),
        (
            _src("cin", "in_h", "in_w"),
            Operand("weights", Memory.SRAM, Mode.READ, "weights", of.conv_weights, of.typed("weights_type")),
            _acc("cout"),
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
            _src("c", "in_h", "in_w"),
            Operand("weights", Memory.SRAM, Mode.READ, "weights", of.taps),
            _acc("c"),
        ),
    ),
    Instruction(
        "map", 6, Engine.VX, "Element by element: requantise or scale, table, add or multiply, table.",
        (
            *_IMAGE,
            _flag("source", "step 1: elements as they are; requantise accumulators; scale and shift elements", "bytes", "acc", "affine"),
            _table(1),
            _flag("binary", "step 3", "none", "add", "mul"),
            _table(2),
            _address("src", Memory.SRAM, "input element [0, 0, 0]; an ACC address where source is acc"),
            _stride("src_row", "from one input row to the next"),
            _stride("src_pixel", "from one input pixel to the next"),
            _zero("src_zero", "zero point of the input elements (source affine)"),
            _type("src_type", "type of the input elements (source bytes, affine)"),
            _address("parameters", Memory.SRAM, "acc: int32 bias[c], float32 multiplier[c]; affine: float32 shift[c], multiplier[c], multiplier for negatives[c]", 4),
            _zero("mid_zero", "zero point after step 1 (acc, affine)"),
            _type("mid_type", "type after step 1 (acc, affine)"),
            _address("table1", Memory.SRAM, "256 bytes, 256 i16 (wide) or 513 i16"),
            *_side("operand", "second operand"),
            _flag("operand_c", "the second operand has channels; no: one element serves a pixel"),
            _zero("a_zero", "zero point of the first operand"),
            _type("a_type", "type of the first operand"),
            _zero("b_zero", "zero point of the second operand"),
            _type("b_type", "type of the second operand"),
            _zero("r_zero", "zero point of the result of step 3"),
            _type("r_type", "type of the result of step 3"),
            Field("a_factor", "f4", "add: r_a; mul: the multiplier of the product"),
            Field("b_factor", "f4", "add: r_b"),
            Field("addend", "f4", "add: z_c - fma(r_a, z_a, r_b * z_b)"),
            _address("table2", Memory.SRAM, "256 bytes, 256 i16 (wide) or 513 i16"),
            *_side("dst", "output"),
            _acc_bytes("width of an accumulator (source acc)"),
        ),
        (
            Operand("src", Memory.SRAM, Mode.READ, "src", of.map_source(Memory.SRAM), of.map_source_size),
            Operand("acc", Memory.ACC, Mode.READ, "src", of.map_source(Memory.ACC), of.said("acc_bytes")),
            Operand("parameters", Memory.SRAM, Mode.READ, "parameters", of.map_parameters, of.always(4)),
            Operand("table1", Memory.SRAM, Mode.READ, "table1", of.table("table1_on"), of.table_size("table1_on")),
            Operand("operand", Memory.SRAM, Mode.READ, "operand", of.map_operand, of.typed("b_type")),
            Operand("table2", Memory.SRAM, Mode.READ, "table2", of.table("table2_on"), of.table_size("table2_on")),
            Operand("dst", Memory.SRAM, Mode.WRITE, "dst", of.image("dst"), of.map_output_size),
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
            _type("dst_type", "type of the output"),
            *_side("dst", "output"),
        ),
        (_src("c", "in_h", "in_w"), _dst("out_h", "out_w")),
    ),
    Instruction(
        "reduce", 8, Engine.VX, "Sums (q - zero point) over rows and columns into accumulators.",
        (
            *_IMAGE, *_side("src", "input"),
            _zero("src_zero", "zero point of the input"),
            _type("src_type", "input type"),
            _address("acc", Memory.ACC, "int32 sums, one a channel", step=4),
            _flag("accumulate", "add to what the accumulators hold instead of overwriting it"),
        ),
        (
            _src(),
            Operand("acc", Memory.ACC, of.accumulate_mode, "acc", of.channels(1), of.always(4)),
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
            _type("src_type", "input type"),
            Field("factor", "f4", "scale of input over (scale of output * 2**22)"),
            _zero("dst_zero", "zero point of the output"),
            _type("dst_type", "type of the output"),
            *_side("dst", "output"),
        ),
        (
            _src("c", "in_h", "in_w"),
            Operand("rows", Memory.SRAM, Mode.READ, "rows", lambda r, t: (of.whole(r["out_h"]), []), of.always(8)),
            Operand("columns", Memory.SRAM, Mode.READ, "columns", lambda r, t: (of.whole(r["out_w"]), []), of.always(8)),
            _dst("out_h", "out_w"),
        ),
    ),
    Instruction(
        "softmax", 10, Engine.VX, "Softmax over the channels of every pixel.",
        (
            *_IMAGE, *_side("src", "input"),
            _address("table", Memory.SRAM, "uint32 exponentials of 0, -1, ... -255 steps; i16: 256 coarse, then 256 fine ones", 4),
            _type("src_type", "input type"),
            Field("factor", "f4", "1 / scale of output"),
            _zero("dst_zero", "zero point of the output"),
            _type("dst_type", "type of the output"),
            *_side("dst", "output"),
        ),
        (
            _src(),
            Operand("table", Memory.SRAM, Mode.READ, "table", of.exponentials, of.always(4)),
            _dst(),
        ),
    ),
    Instruction(
        "lrn", 11, Engine.VX, "Local response normalisation across channels, beta = 0.75.",
        (
            *_IMAGE, *_side("src", "input"),
            _count("size", "channels in the window"),
            _zero("src_zero", "zero point of the input"),
            _type("src_type", "input type"),
            Field("alpha", "f4", "alpha / size * scale of input squared"),
            Field("bias", "f4", "bias"),
            Field("factor", "f4", "scale of input over scale of output"),
            _zero("dst_zero", "zero point of the output"),
            _type("dst_type", "type of the output"),
            *_side("dst", "output"),
        ),
        (_src(), _dst()),
    ),
    Instruction(
        "norm", 15, Engine.VX, "Layer or root mean square normalisation over the channels of every pixel.",
        (
            *_IMAGE, *_side("src", "input"),
            _zero("src_zero", "zero point of the input"),
            _type("src_type", "input type"),
            _flag("centre", "take the mean of a pixel's channels off"),
            _address("parameters", Memory.SRAM, "float32 multiplier[c], float32 shift[c]", 4),
            Field("epsilon", "f4", "epsilon * c**2 / scale of input squared; above 0"),
            _zero("dst_zero", "zero point of the output"),
            _type("dst_type", "type of the output"),
            *_side("dst", "output"),
        ),
        (
            _src(),
            Operand("parameters", Memory.SRAM, Mode.READ, "parameters", of.channels(2), of.always(4)),
            _dst(),
        ),
    ),
    Instruction(
        "topk", 16, Engine.VX, "The k greatest or smallest channels of every pixel, and their numbers.",
        (
            *_IMAGE, *_side("src", "input"),
            _type("src_type", "type of the input and of the values"),
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
            Operand("dst", Memory.SRAM, Mode.WRITE, "dst", of.topk("dst", "values_on", 1), of.typed("src_type")),
            Operand("index", Memory.SRAM, Mode.WRITE, "index", of.topk("index", "indices_on", 4)),
        ),
    ),
    Instruction(
        "copy", 12, Engine.VX, "Moves single elements over four loops: transposition and rearrangement.",
        (
            _address("src", Memory.SRAM, "first input element"),
            _address("dst", Memory.SRAM, "first output element"),
            *(_count(f"n{i}", f"repetitions of loop {i}, innermost first") for i in range(4)),
            *(_stride(f"src_s{i}", f"input step of loop {i}") for i in range(4)),
            *(_stride(f"dst_s{i}", f"output step of loop {i}") for i in range(4)),
            Field("element_bytes", "u1", "bytes of an element", "bytes", 1, 2),
        ),
        (
            Operand("src", Memory.SRAM, Mode.READ, "src", of.copy("src"), of.said("element_bytes")),
            Operand("dst", Memory.SRAM, Mode.WRITE, "dst", of.copy("dst"), of.said("element_bytes")),
        ),
    ),
    Instruction(
        "send", 14, Engine.STORE, "Copies bytes from SRAM to another core's SRAM.",
        (*_dma_fields(Memory.SRAM, Memory.SRAM), Field("peer", "u1", "the core that receives", high=MOST_CORES - 1)),
        (
            Operand("src", Memory.SRAM, Mode.READ, "src", of.dma("src")),
            Operand("dst", Memory.SRAM, Mode.WRITE, "dst", of.dma("dst"), cores=lambda r: 1 << of.whole(r["peer"])),
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
