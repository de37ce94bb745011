"""Extents of operands: how many elements each instruction touches, and in which loops."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa import elements
from ommatid.isa.declaration import Extent, Loops, Memory, Mode, Records, Sizes
from ommatid.isa.target import Target


def whole(value: Any) -> Any:
    """As int64."""
    return np.asarray(value, dtype=np.int64)


def _ceil(value: Any, by: int) -> Any:
    return -(-whole(value) // by)


# --- sizes of elements ----------------------------------------------------------------------------------


def typed(name: str) -> Sizes:
    """Those of the type in a field."""
    return lambda r: elements.size(r[name])


def said(name: str) -> Sizes:
    """A field's own value."""
    return lambda r: whole(r[name])


def always(size: int) -> Sizes:
    """The same in every record."""
    return lambda r: np.full(len(r), size, np.int64)


def table_size(kind: str) -> Sizes:
    """Entries of a table of ``map``."""
    return lambda r: elements.table_entry_bytes(r[kind])


# --- extents --------------------------------------------------------------------------------------------


def dma(side: str) -> Extent:
    """A run of bytes and three loops."""

    def extent(r: Records, target: Target) -> tuple[Any, Loops]:
        return whole(r["run"]), [(whole(r[f"n{i}"]), whole(r[f"{side}_s{i}"])) for i in (1, 2, 3)]

    return extent


def image(side: str, channels: str = "c", h: str = "h", w: str = "w") -> Extent:
    """h x w pixels of some channels, with row and pixel strides."""

    def extent(r: Records, target: Target) -> tuple[Any, Loops]:
        return whole(r[channels]), [
            (whole(r[w]), whole(r[f"{side}_pixel"])),
            (whole(r[h]), whole(r[f"{side}_row"])),
        ]

    return extent


def channels(factor: int) -> Extent:
    """So many elements for each channel."""
    return lambda r, target: (whole(r["c"]) * factor, [])


def conv_steps(r: Records, target: Target) -> Any:
    """Weight tiles along K for one group of output channels: K runs along the kernel row, or tap by tap."""
    k = target.mx_k_bytes
    per_row = np.where(
        r["row_mode"] == 1, _ceil(whole(r["kw"]) * r["cin"], k), whole(r["kw"]) * _ceil(r["cin"], k)
    )
    return whole(r["kh"]) * per_row


def conv_weights(r: Records, target: Target) -> tuple[Any, Loops]:
    """Whole tiles."""
    groups = _ceil(r["cout"], target.mx_channels)
    return groups * conv_steps(r, target) * (target.mx_k_bytes * target.mx_channels), []


def taps(r: Records, target: Target) -> tuple[Any, Loops]:
    """The weights of a depthwise convolution."""
    return whole(r["c"]), [(whole(r["kh"]) * whole(r["kw"]), whole(r["weights_tap"]))]


def accumulators(channels: str) -> Extent:
    """Those of all output pixels."""
    return lambda r, target: (
        whole(r[channels]),
        [(whole(r["out_h"]) * whole(r["out_w"]), whole(r["acc_pixel"]))],
    )


def accumulate_mode(r: Records) -> Any:
    """What is done to accumulators."""
    return np.where(r["accumulate"] == 1, int(Mode.UPDATE), int(Mode.WRITE))


def map_source(memory: Memory) -> Extent:
    """The first operand of ``map``, if it lies in this memory."""

    def extent(r: Records, target: Target) -> tuple[Any, Loops]:
        here = (r["source"] == 1) == (memory == Memory.ACC)
        return np.where(here, whole(r["c"]), 0), image("src")(r, target)[1]

    return extent


def map_source_size(r: Records) -> Any:
    """The element of that image in SRAM; where there is none, any size."""
    return np.maximum(elements.map_sizes(r).source, 1)


def map_parameters(r: Records, target: Target) -> tuple[Any, Loops]:
    """Numbers of four bytes for each channel."""
    return whole(r["c"]) * np.array([0, 2, 3])[r["source"]], []


def map_operand(r: Records, target: Target) -> tuple[Any, Loops]:
    """The second operand of ``map``."""
    run = np.where(r["binary"] > 0, np.where(r["operand_c"] == 1, whole(r["c"]), 1), 0)
    return run, image("operand")(r, target)[1]


def map_output_size(r: Records) -> Any:
    """What the last step of ``map`` gives."""
    return elements.map_sizes(r).after[-1]


def table(kind: str) -> Extent:
    """A table of ``map``."""
    return lambda r, target: (elements.table_entries(r[kind]), [])


def exponentials(r: Records, target: Target) -> tuple[Any, Loops]:
    """The table of ``softmax``."""
    return 256 * elements.size(r["src_type"]), []


def topk(side: str, flag: str, factor: int) -> Extent:
    """k times so many elements a pixel, where a flag is set."""

    def extent(r: Records, target: Target) -> tuple[Any, Loops]:
        return np.where(r[flag] == 1, factor * whole(r["k"]), 0), image(side)(r, target)[1]

    return extent


def copy(side: str) -> Extent:
    """Single elements over four loops."""

    def extent(r: Records, target: Target) -> tuple[Any, Loops]:
        return whole(np.ones(len(r))), [(whole(r[f"n{i}"]), whole(r[f"{side}_s{i}"])) for i in range(4)]

    return extent
