"""Lowering: what layers share while they become instructions - buffers, tiles brought in and taken out.

``Lowering`` hands each layer its tensors as regions of SRAM, whether they stay there or stream from DRAM,
so the code of an operation (``lower_conv.py``, ``lower_vector.py``, ``lower_shape.py``) does not care.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ommatid.compiler.cores import OnCores
from ommatid.compiler.emit import Form
from ommatid.compiler.layers import Network, nhwc
from ommatid.compiler.parts import by_channels, held_bytes, image_strides
from ommatid.compiler.sram import DoesNotFit, aligned
from ommatid.compiler.storage import Storage
from ommatid.isa.elements import NUMBER, TYPES, ElementType
from ommatid.isa.instructions import Memory
from ommatid.isa.program import Placed, Quantization

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Home:
    """Where a buffer lies; a DRAM address counts from the first activation."""

    memory: Memory
    address: int
    symbol: int


class Region(NamedTuple):
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

    def window(self, first: int, after: int, left: int, right: int) -> Region:
        """These rows and columns; a single one of either is repeated, and so always there."""
        part = self
        if self.rows > 1:
            part = part._replace(address=part.at(first), first=first, rows=after - first)
        if self.columns > 1:
            part = part._replace(address=part.address + left * part.pixel, columns=right - left)
        return part


class _Layout(NamedTuple):
    """A tensor in its buffer: its (n, h, w, c), what its elements are, where it begins, and byte strides of (n, h, w)."""

    shape: tuple[int, int, int, int]
    kind: ElementType
    buffer: str
    offset: int
    strides: tuple[int, int, int]


@dataclass(kw_only=True)
class Lowering(OnCores):
    """State of one lowering: the emitter, the SRAM of the cores that it lowers for, and where buffers are."""

    network: Network
    storage: Storage
    resident: frozenset[str]
    dram_address: Mapping[str, int]
    sram_address: Mapping[str, int] = field(default_factory=dict)  # of those that stay, if it is planned
    buffers: int = 2  # of a convolution's tiles of a kind; 1: not even two fit, and layers are cut finer
    homes: dict[str, Home] = field(default_factory=dict)
    placed: list[Placed] = field(default_factory=list)
    sum_bytes: int = 0  # of the accumulators, at their end: sums that last as long as a cascade
    _summed: int = 0
    _rows: dict[str, int] = field(default_factory=dict)
    _opening: dict[str, Home] = field(default_factory=dict)
    _stored: dict[str, Home] = field(default_factory=dict)
    _tiles: dict[str, list[int]] = field(default_factory=dict)
    _layouts: dict[str, _Layout] = field(default_factory=dict)
    _moves: dict[tuple[str, int, tuple[str, ...]], Form] = field(default_factory=dict)  # of ``dma``

    # --- what other cores hold too --------------------------------------------------------------------

    def send(
        self, name: str, address: int, rows: tuple[int, int], columns: tuple[int, int], run: int
    ) -> None:
        """Send ``run`` bytes at each of these (count, stride) rows and columns, which the core has written of a tensor
        that lies in SRAM, to those that hold them too."""
        buffer = self.storage.spots[name].buffer
        if buffer not in self.held:
            return
        home, begin = self.homes[buffer], self.first_held(buffer)
        at = address - home.address + begin
        outer, inner = (rows, columns) if rows[0] > 1 else (columns, (1, 0))
        extent = run + (inner[0] - 1) * inner[1]
        mine, spans = self.cores[0], self.held[buffer]
        for peer in [*range(mine + 1, len(spans)), *range(mine)]:  # each begins with another
            low, high = spans[peer]
            first = max(-((at - low) // outer[1]), 0) if outer[0] > 1 else int(at < low)
            last = (
                min((high - extent - at) // outer[1] + 1, outer[0])
                if outer[0] > 1
                else int(at + extent <= high)
            )
            if last <= first:
                continue
            source = address + first * outer[1]
            length, loops = merged(run, [(n, s, s) for n, s in (inner, (last - first, outer[1]))])
            self.dma("send", source, home.symbol, source + begin - low, home.symbol, length, loops, peer=peer)

    def send_all(self, name: str) -> None:
        """Send a whole tensor, of which the core has written all, to those that hold some of it."""
        if self.stays(name):
            n, h, w, c = self.shape(name)
            for image in range(n):
                address, _, row, pixel = self._locate(name, image, 0)
                self.send(name, address, (h, row), (w, pixel), c * self.kind(name).bytes)

    # --- tensors -------------------------------------------------------------------------------------

    def _layout(self, name: str) -> _Layout:
        if name not in self._layouts:
            tensor, spot = self.network.tensors[name], self.storage.spots[name]
            shape, kind = nhwc(tensor.shape), tensor.quantization.kind
            if name in self._rows:
                channels = tensor.shape[-1]
                shape = 1, math.prod(tensor.shape[:-1]), 1, channels
                strides = 0, self._rows[name], channels * kind.bytes
            else:
                strides = image_strides(self.network, self.storage, name)
            self._layouts[name] = _Layout(shape, kind, spot.buffer, spot.offset, strides)
        return self._layouts[name]

    def shape(self, name: str) -> tuple[int, int, int, int]:
        """A tensor's (n, h, w, c)."""
        return self._layout(name).shape

    def quantization(self, name: str) -> Quantization:
        """A tensor's scale, zero point and type."""
        return self.network.tensors[name].quantization

    def kind(self, name: str) -> ElementType:
        """What a tensor's elements are."""
        return self._layout(name).kind

    def row_bytes(self, name: str) -> int:
        """Bytes of a row of a tensor."""
        _, _, w, c = self.shape(name)
        return w * c * self.kind(name).bytes

    def strides(self, name: str) -> tuple[int, int, int]:
        """Byte strides of (n, h, w) in the tensor's buffer; those of single rows and pixels as if dense."""
        return self._layout(name).strides

    def see_as_rows(self, *names: str, dense: bool = False) -> None:
        """Until the layer ends, see the pixels of these tensors as rows of one pixel, so that they can be cut anywhere.

        That is if all pixels of each are equally far apart, and with ``dense`` side by side, and cores do not share them.
        """
        if self.parts and not by_channels(self.parts):
            return
        steps = {name: self._even_step(name) for name in names}
        if all(
            step and not (dense and step != self.network.tensors[name].shape[-1] * self.kind(name).bytes)
            for name, step in steps.items()
        ):
            self._rows |= {name: step for name, step in steps.items() if step}
            self._layouts.clear()

    def _even_step(self, name: str) -> int | None:
        """Bytes from each pixel of a tensor to the next, if that is one number."""
        shape, strides = self.network.tensors[name].shape, self.storage.spots[name].strides
        loops = [(n, s) for n, s in zip(shape[:-1], strides[:-1], strict=True) if n > 1]
        even = all(outer == n * s for (_, outer), (n, s) in itertools.pairwise(loops))
        return (loops[-1][1] if loops else shape[-1] * self.kind(name).bytes) if even and shape else None

    def home(self, name: str) -> Home:
        """Where the buffer of a tensor lies, placed at its first use."""
        buffer = self._layout(name).buffer
        if buffer in self.homes:
            return self.homes[buffer]
        if buffer in self.network.constants:
            self.homes[buffer] = Home(Memory.DRAM, *self.emitter.constant(self.network.constants[buffer]))
        if buffer not in self.homes:
            size = self.storage.buffer_bytes[buffer]
            if buffer in self.resident:
                size = held_bytes(self.held[buffer]) if self.held else size
                memory, address = Memory.SRAM, self.everywhere.stay(size, self.sram_address.get(buffer))
            else:
                memory, address = Memory.DRAM, self.dram_address[buffer]
            role = self._role(buffer)
            self.homes[buffer] = Home(memory, address, self.emitter.symbol(memory, role, address, size, -1))
        return self.homes[buffer]

    def _role(self, buffer: str) -> str:
        members = self.storage.members[buffer]
        if len(members) == 1 and members[0] in self.network.fed:
            return "input"
        return "activation" if self.network.kept.isdisjoint(members) else "output"

    def stays(self, name: str) -> bool:
        """The tensor lies in SRAM as a whole."""
        return self.home(name).memory == Memory.SRAM

    def place(self, name: str, ready: int, layer: int) -> None:
        """Record that a tensor is complete after instruction ``ready``; its address counts from its symbol."""
        home, spot = self.home(name), self.storage.spots[name]
        spans = self.held.get(spot.buffer, ()) if home.memory == Memory.SRAM else ()
        held = tuple((core, begin, end) for core, (begin, end) in enumerate(spans) if end > begin)
        self.placed.append(
            Placed(
                self.network.tensors[name], home.symbol, int(home.memory), spot.offset, spot.strides, ready, 0, layer,
                held if [core for core, *_ in held] != [0] else (),
            )
        )  # fmt: skip

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

    def bring_channels(
        self, name: str, image: int, first: int, rows: int, channel: int, channels: int
    ) -> Region:
        """As ``bring``, addressed as if all channels were there."""
        part = self.bring(name, image, first, rows, channel, channels)
        return part._replace(address=part.address - channel * part.kind.bytes)

    def open(
        self, name: str, image: int, first: int, rows: int, channel: int = 0, channels: int = 0
    ) -> Region:
        """Rows (and a range of channels) of a tensor for writing: in place, or a tile that ``close`` stores."""
        return self._region(name, image, first, rows, channel, channels, writing=True)

    def _region(
        self, name: str, image: int, first: int, rows: int, channel: int, channels: int, writing: bool
    ) -> Region:
        (_, _, w, c), kind, *_ = self._layout(name)
        channels = channels or c
        if self.stays(name):
            address, symbol, row, pixel = self._locate(name, image, first, writing)
            return Region(address + channel * kind.bytes, row, pixel, symbol, first, rows, w, channels, kind)
        return self.new_tile(rows, w, channels, first, kind)

    def close(self, name: str, image: int, region: Region, channel: int = 0, column: int = 0) -> None:
        """Store an opened region, if it was a tile or its buffer's rows do not stay."""
        stored = self._stored.get(self.storage.spots[name].buffer)
        if region.tile is not None or stored is not None:
            address, symbol, row, pixel = self._locate(name, image, region.first, home=stored)
            run = region.channels * region.kind.bytes
            run, loops = merged(run, [(region.columns, region.pixel, pixel), (region.rows, region.row, row)])
            to = address + column * pixel + channel * region.kind.bytes
            self.dma("store", region.address, region.symbol, to, symbol, run, loops)
        elif self.parts:
            rows, columns = (region.rows, region.row), (region.columns, region.pixel)
            self.send(name, region.address, rows, columns, region.channels * region.kind.bytes)
        self.drop(region)

    def drop(self, region: Region) -> None:
        """Give back the tile of a region, if it has one."""
        if region.tile is not None:
            self.sram.release(region.tile)

    def _locate(
        self, name: str, image: int, row: int, writing: bool = False, home: Home | None = None
    ) -> tuple[int, int, int, int]:
        _, _, buffer, offset, (n_stride, row_stride, pixel) = self._layout(name)
        home = home or self.home(name)
        if writing:
            home = self._opening.get(buffer, home)
        begin = self.first_held(buffer) if home.memory == Memory.SRAM else 0
        address = home.address - begin + offset + image * n_stride + row * row_stride
        return address, home.symbol, row_stride, pixel

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
        loops: Sequence[tuple[int, int, int]] = (), **more: int,
    ) -> None:  # fmt: skip
        """A ``load``, ``store`` or ``send``; loops are (count, source stride, destination stride), innermost first."""
        if mnemonic == "load" and len(self.cores) > 1:
            more["multicast"] = sum(1 << core for core in self.cores)
        key = mnemonic, len(loops), (*more,)
        if key not in self._moves:
            names = (f"{name}{i}" for i in range(1, len(loops) + 1) for name in ("n", "src_s", "dst_s"))
            fields = ("src", "dst", "run", *more, *names)
            self._moves[key] = self.emitter.form(mnemonic, fields, ("src", "dst"), {})
        values = (src, dst, run, *more.values(), *itertools.chain.from_iterable(loops))
        self.emitter.add(self._moves[key], values, (src_symbol, dst_symbol))

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
        self.keep_for_layer(address)
        self.dma("load", source, source_symbol, address, symbol, data.nbytes)
        return address, symbol

    def accumulators(self, size: int) -> tuple[int, int]:
        """The other half of the accumulators: (address, symbol of ``size`` bytes)."""
        core = self.cores[0]
        self.half[core] ^= 1
        address = self.half[core] * ((self.target.accumulator_bytes - self.sum_bytes) // 2)
        return address, self.emitter.symbol(Memory.ACC, "accumulator", address, size)

    def sums(self, size: int) -> tuple[int, int]:
        """Accumulators that are one layer's to the end of a cascade: (address, symbol)."""
        self._summed += aligned(size)
        address = self.target.accumulator_bytes - self._summed
        return address, self.emitter.symbol(Memory.ACC, "accumulator", address, size)

    def end_layer(self) -> None:
        """Give back what ``load_constant`` and ``keep_for_layer`` took; see tensors as they are."""
        self.release_kept()
        if self._rows:
            self._rows.clear()
            self._layouts.clear()


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
