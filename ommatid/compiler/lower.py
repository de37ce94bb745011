"""Lowering: what layers share while they become instructions - buffers, tiles brought in and taken out.

``Lowering`` hands each layer its tensors as regions of SRAM, whether they stay there or stream from DRAM,
so the code of an operation (``lower_conv.py``, ``lower_vector.py``, ``lower_shape.py``) does not care.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ommatid.compiler.emit import Emitter
from ommatid.compiler.layers import Network, nhwc
from ommatid.compiler.sram import DoesNotFit, Sram, aligned
from ommatid.compiler.storage import Storage
from ommatid.isa.elements import NUMBER, TYPES, ElementType
from ommatid.isa.instructions import Memory
from ommatid.isa.program import Placed, Quantization
from ommatid.isa.target import Target

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Home:
    """Where a buffer lies; a DRAM address counts from the first activation."""

    memory: Memory
    address: int
    symbol: int


@dataclass(frozen=True)
class Region:
    """Rows ``first`` .. ``first + rows`` of one image of a tensor, in SRAM.

    ``address`` is that of element [first, 0, channel 0 of the region]; strides in bytes. ``kind`` is what its
    elements are.
    """

    address: int
    row: int
    pixel: int
    symbol: int
    first: int
    rows: int
    columns: int
    channels: int
    kind: ElementType
    tile: int | None = None  # the SRAM buffer to give back

    @property
    def flat(self) -> bool:
        """Rows follow each other as pixels do."""
        return self.rows == 1 or self.row == self.columns * self.pixel

    def at(self, row: int, column: int = 0, channel: int = 0) -> int:
        """The address of an element; ``row`` counts from the tensor's first."""
        return self.address + (row - self.first) * self.row + column * self.pixel + channel * self.kind.bytes


@dataclass
class Lowering:
    """State of one lowering: the emitter, the SRAM, and where buffers are."""

    network: Network
    storage: Storage
    target: Target
    resident: frozenset[str]
    dram_address: Mapping[str, int]
    buffers: int = 2  # of a convolution's tiles of a kind; 1: not even two fit, and layers are cut finer
    emitter: Emitter = field(default_factory=Emitter)
    sram: Sram = field(init=False)
    homes: dict[str, Home] = field(default_factory=dict)
    placed: list[Placed] = field(default_factory=list)
    sum_bytes: int = 0  # of the accumulators, at their end: sums that last as long as a cascade
    _summed: int = 0
    _rows: dict[str, int] = field(default_factory=dict)
    _half: int = 0
    _layer_tiles: list[int] = field(default_factory=list)
    _opening: dict[str, Home] = field(default_factory=dict)
    _stored: dict[str, Home] = field(default_factory=dict)
    _tiles: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sram = Sram(self.target.sram_bytes)

    # --- tensors -------------------------------------------------------------------------------------

    def shape(self, name: str) -> tuple[int, int, int, int]:
        """A tensor's (n, h, w, c)."""
        shape = self.network.tensors[name].shape
        return (1, math.prod(shape[:-1]), 1, shape[-1]) if name in self._rows else nhwc(shape)

    def quantization(self, name: str) -> Quantization:
        """A tensor's scale, zero point and type."""
        return self.network.tensors[name].quantization

    def kind(self, name: str) -> ElementType:
        """What a tensor's elements are."""
        return self.quantization(name).kind

    def row_bytes(self, name: str) -> int:
        """Bytes of a row of a tensor."""
        _, _, w, c = self.shape(name)
        return w * c * self.kind(name).bytes

    def strides(self, name: str) -> tuple[int, int, int]:
        """Byte strides of (n, h, w) in the tensor's buffer; those of single rows and pixels as if dense."""
        element = self.kind(name).bytes
        if name in self._rows:
            return 0, self._rows[name], self.network.tensors[name].shape[-1] * element
        shape, own = self.network.tensors[name].shape, self.storage.spots[name].strides
        padded = (0,) * (2 - len(shape)) + own if len(shape) < 2 else own[-4:]
        full = (padded[0], *(0,) * (4 - len(padded)), *padded[1:])
        _, h, w, c = self.shape(name)
        pixel = full[2] if w > 1 else c * element
        row = full[1] if h > 1 else w * pixel
        return full[0], row, pixel

    def see_as_rows(self, *names: str, dense: bool = False) -> None:
        """Until the layer ends, see the pixels of these tensors as rows of one pixel, so that they can be cut anywhere.

        That is if all pixels of each are equally far apart, and with ``dense`` side by side.
        """
        steps = {name: self._even_step(name) for name in names}
        if all(
            step and not (dense and step != self.network.tensors[name].shape[-1] * self.kind(name).bytes)
            for name, step in steps.items()
        ):
            self._rows |= {name: step for name, step in steps.items() if step}

    def _even_step(self, name: str) -> int | None:
        """Bytes from each pixel of a tensor to the next, if that is one number."""
        shape, strides = self.network.tensors[name].shape, self.storage.spots[name].strides
        loops = [(n, s) for n, s in zip(shape[:-1], strides[:-1], strict=True) if n > 1]
        even = all(outer == n * s for (_, outer), (n, s) in itertools.pairwise(loops))
        return (loops[-1][1] if loops else shape[-1] * self.kind(name).bytes) if even and shape else None

    def home(self, name: str) -> Home:
        """Where the buffer of a tensor lies, placed at its first use."""
        buffer = self.storage.spots[name].buffer
        if buffer in self.network.constants:
            return Home(Memory.DRAM, *self.emitter.constant(self.network.constants[buffer]))
        if buffer not in self.homes:
            size = self.storage.buffer_bytes[buffer]
            if buffer in self.resident:
                memory, address = Memory.SRAM, self.sram.stay(size)
            else:
                memory, address = Memory.DRAM, self.dram_address[buffer]
            role = self._role(buffer)
            self.homes[buffer] = Home(memory, address, self.emitter.symbol(memory, role, address, size, -1))
        return self.homes[buffer]

    def _role(self, buffer: str) -> str:
        members = {name for name, spot in self.storage.spots.items() if spot.buffer == buffer}
        if members & self.network.fed and len(members) == 1:
            return "input"
        return "output" if members & self.network.kept else "activation"

    def stays(self, name: str) -> bool:
        """The tensor lies in SRAM as a whole."""
        return self.home(name).memory == Memory.SRAM

    def place(self, name: str, ready: int, layer: int) -> None:
        """Record that a tensor is complete after instruction ``ready``; its address counts from its symbol."""
        home, spot = self.home(name), self.storage.spots[name]
        tensor = self.network.tensors[name]
        self.placed.append(
            Placed(tensor, home.symbol, int(home.memory), spot.offset, spot.strides, ready, 0, layer)
        )

    # --- buffers of which only some rows exist --------------------------------------------------------

    def begin_cascade(self, inner: frozenset[str], sums: Sequence[int] = ()) -> None:
        """From now on these buffers lie in SRAM, some rows at a time, and sums of so many bytes have accumulators.

        What is closed of a buffer that has a home is stored there, too.

        Raises:
            DoesNotFit: the sums take more than a quarter of the accumulators.
        """
        self.sum_bytes = sum(aligned(size) for size in sums)
        if self.sum_bytes > self.target.accumulator_bytes // 4:
            raise DoesNotFit(self.sum_bytes)
        self._stored = {buffer: self.homes[buffer] for buffer in inner if buffer in self.homes}
        self.homes |= {buffer: Home(Memory.SRAM, 0, -1) for buffer in inner}

    def hold(self, name: str, image: int, first: int, rows: int) -> None:
        """Make a tile for rows ``first`` .. ``first + rows`` of the buffer of a tensor.

        What is opened from now on lies in it; what is brought still in the old one, until ``turn_over``.
        """
        n_stride, row, _ = self.strides(name)
        address, symbol = self.raw_tile(rows * row)
        buffer = self.storage.spots[name].buffer
        self._opening[buffer] = Home(Memory.SRAM, address - first * row - image * n_stride, symbol)
        self._tiles.setdefault(buffer, []).append(address)

    def row_region(self, name: str, image: int, first: int, rows: int, writing: bool = False) -> Region:
        """Whole rows of the buffer of a tensor of which only some exist, as pixels of single bytes."""
        address, symbol, row, _ = self._locate(name, image, first, writing)
        address -= self.storage.spots[name].offset
        return Region(address, row, row, symbol, first, rows, 1, row, TYPES[NUMBER["uint8"]])

    def turn_over(self, finished: Iterable[str] = ()) -> None:
        """The new tiles take the place of the old ones; ``finished`` buffers have none any more."""
        gone = set(finished)
        for buffer in sorted(self._opening.keys() | gone):
            tiles = self._tiles.pop(buffer, [])
            kept = [] if buffer in gone else tiles[-1:]
            for address in tiles[: len(tiles) - len(kept)]:
                self.sram.release(address)
            if kept:
                self._tiles[buffer] = kept
        self.homes |= self._opening
        self._opening.clear()

    def end_cascade(self, inner: frozenset[str]) -> None:
        """These buffers and sums are no more."""
        self.sum_bytes = self._summed = 0
        self.turn_over(inner)
        for buffer in inner:
            del self.homes[buffer]
        self.homes |= self._stored
        self._stored.clear()

    # --- tiles ---------------------------------------------------------------------------------------

    def bring(
        self, name: str, image: int, first: int, rows: int, channel: int = 0, channels: int = 0
    ) -> Region:
        """Rows (and a range of channels) of a tensor for reading: in place, or a tile that ``drop`` gives back."""
        region = self._region(name, image, first, rows, channel, channels, writing=False)
        if region.tile is not None:
            address, symbol, row, pixel = self._locate(name, image, first)
            address, run = address + channel * region.kind.bytes, region.channels * region.kind.bytes
            run, loops = merged(run, [(region.columns, pixel, region.pixel), (rows, row, region.row)])
            self.dma("load", address, symbol, region.address, region.symbol, run, loops)
        return region

    def open(
        self, name: str, image: int, first: int, rows: int, channel: int = 0, channels: int = 0
    ) -> Region:
        """Rows (and a range of channels) of a tensor for writing: in place, or a tile that ``close`` stores."""
        return self._region(name, image, first, rows, channel, channels, writing=True)

    def _region(
        self, name: str, image: int, first: int, rows: int, channel: int, channels: int, writing: bool
    ) -> Region:
        _, _, w, c = self.shape(name)
        channels = channels or c
        if self.stays(name):
            address, symbol, row, pixel = self._locate(name, image, first, writing)
            begin = address + channel * self.kind(name).bytes
            return Region(begin, row, pixel, symbol, first, rows, w, channels, self.kind(name))
        return self.new_tile(rows, w, channels, first, self.kind(name))

    def close(self, name: str, image: int, region: Region, channel: int = 0, column: int = 0) -> None:
        """Store an opened region, if it was a tile or its buffer's rows do not stay."""
        stored = self._stored.get(self.storage.spots[name].buffer)
        if region.tile is not None or stored is not None:
            address, symbol, row, pixel = self._locate(name, image, region.first, home=stored)
            run = region.channels * region.kind.bytes
            run, loops = merged(run, [(region.columns, region.pixel, pixel), (region.rows, region.row, row)])
            to = address + column * pixel + channel * region.kind.bytes
            self.dma("store", region.address, region.symbol, to, symbol, run, loops)
        self.drop(region)

    def drop(self, region: Region) -> None:
        """Give back the tile of a region, if it has one."""
        if region.tile is not None:
            self.sram.release(region.tile)

    def _locate(
        self, name: str, image: int, row: int, writing: bool = False, home: Home | None = None
    ) -> tuple[int, int, int, int]:
        home, spot = home or self.home(name), self.storage.spots[name]
        if writing:
            home = self._opening.get(spot.buffer, home)
        n_stride, row_stride, pixel = self.strides(name)
        return (
            home.address + spot.offset + image * n_stride + row * row_stride,
            home.symbol,
            row_stride,
            pixel,
        )

    def raw_tile(self, size: int) -> tuple[int, int]:
        """A tile for activations: (address, symbol)."""
        address = self.sram.tile(size)
        return address, self.emitter.symbol(Memory.SRAM, "tile", address, size)

    def new_tile(self, rows: int, columns: int, channels: int, first: int, kind: ElementType) -> Region:
        """A dense tile for rows of an image; nothing is loaded into it."""
        pixel = channels * kind.bytes
        address, symbol = self.raw_tile(rows * columns * pixel)
        return Region(address, columns * pixel, pixel, symbol, first, rows, columns, channels, kind, address)

    def dma(
        self, mnemonic: str, src: int, src_symbol: int, dst: int, dst_symbol: int, run: int,
        loops: Sequence[tuple[int, int, int]] = (),
    ) -> None:  # fmt: skip
        """A ``load`` or ``store``; loops are (count, source stride, destination stride), innermost first."""
        fields: dict[str, Any] = {"src": src, "dst": dst, "run": run}
        for i, (count, src_stride, dst_stride) in enumerate(loops, 1):
            fields |= {f"n{i}": count, f"src_s{i}": src_stride, f"dst_s{i}": dst_stride}
        self.emitter.emit(mnemonic, {"src": src_symbol, "dst": dst_symbol}, **fields)

    def make_room(self, need_bytes: int) -> None:
        """Before a layer that needs much of the SRAM: begin the circle anew, so that small tiles do not
        stand in the middle of the only range that is large enough."""
        low, high = max(self.sram.gaps(), key=lambda gap: gap[1] - gap[0], default=(0, 0))
        if need_bytes > (high - low) // 3:
            self.sram.pointer = low

    # --- constants and accumulators ------------------------------------------------------------------

    def weights(self, size: int) -> tuple[int, int]:
        """A tile for constants: (address, symbol)."""
        address = self.sram.tile(size)
        return address, self.emitter.symbol(Memory.SRAM, "weights", address, size)

    def load_constant(self, data: Array) -> tuple[int, int]:
        """Constants loaded for the rest of the layer: (SRAM address, symbol)."""
        source, source_symbol = self.emitter.constant(data)
        address, symbol = self.weights(data.nbytes)
        self._layer_tiles.append(address)
        self.dma("load", source, source_symbol, address, symbol, data.nbytes)
        return address, symbol

    def keep_for_layer(self, address: int) -> None:
        """Give back this tile when the layer ends."""
        self._layer_tiles.append(address)

    def accumulators(self, size: int) -> tuple[int, int]:
        """The other half of the accumulators: (address, symbol of ``size`` bytes)."""
        self._half ^= 1
        address = self._half * ((self.target.accumulator_bytes - self.sum_bytes) // 2)
        return address, self.emitter.symbol(Memory.ACC, "accumulator", address, size)

    def sums(self, size: int) -> tuple[int, int]:
        """Accumulators that are one layer's to the end of a cascade: (address, symbol)."""
        self._summed += aligned(size)
        address = self.target.accumulator_bytes - self._summed
        return address, self.emitter.symbol(Memory.ACC, "accumulator", address, size)

    def end_layer(self) -> None:
        """Give back what ``load_constant`` and ``keep_for_layer`` took; see tensors as they are."""
        for address in self._layer_tiles:
            self.sram.release(address)
        self._layer_tiles.clear()
        self._rows.clear()


def merged(run: int, loops: list[tuple[int, int, int]]) -> tuple[int, list[tuple[int, int, int]]]:
    """Loops (count, source stride, destination stride) that are contiguous on both sides, merged into the run."""
    rest: list[tuple[int, int, int]] = []
    for count, src, dst in loops:
        if count == 1:
            continue
        if not rest and src == run and dst == run:
            run *= count
        else:
            rest.append((count, src, dst))
    return run, rest
