"""A cascade into instructions: all its layers at one pace, each a stripe at a time, as soon as there are the rows that it
reads.

An inner buffer has a tile of the rows of a stripe; those that the next one needs again are copied into its tile, and no
row is made twice.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ommatid.compiler.cascade import BY_ROWS, height
from ommatid.compiler.layers import Conv, Layer, Mean, Network, Pool
from ommatid.compiler.lower import Lowering, Region
from ommatid.compiler.rows import Cycles, Pieces, Rows, Share, Window, in_pieces
from ommatid.compiler.storage import Storage, operands
from ommatid.isa.cost import VX_STARTUP_CYCLES

#: Pixels without gaps are copied in runs of multiples of so many bytes, and at most of so many as a field holds.
COPIED_BYTES, MOST_BYTES = 64, 65472
#: Below so many cycles a piece of vx costs more to start than it is worth.
LEAST_CYCLES = 96


def lower_cascade(
    low: Lowering, layers: Sequence[tuple[int, Layer]], inner: frozenset[str], each: float
) -> None:
    """Emit a cascade.

    Raises:
        DoesNotFit: its tiles and weights do not fit in the free SRAM.
    """
    means = [low.shape(layer.output) for _, layer in layers if isinstance(layer.operation, Mean)]
    low.begin_cascade(inner, [4 * c for n, *_, c in means for _ in range(n)])
    alone = [layer for _, layer in layers]
    heights, tiles = _stripes_and_tiles(low, alone, inner, each)
    weights = [
        layer.operation.weights.nbytes if isinstance(layer.operation, Conv) else 0 for _, layer in layers
    ]
    free = low.sram.free_bytes() - 2 * sum(tiles.values())
    kept = _fair(weights, free)
    made: list[Rows] = []
    for at, (number, layer) in enumerate(layers):
        low.emitter.layer = number
        share = Share(heights[layer.output], max(free - sum(kept[at + 1 :]), 0))
        before = low.sram.free_bytes()
        made.append(BY_ROWS[type(layer.operation)](low, layer, share))
        free -= before - low.sram.free_bytes()
    _emit(low, layers, made, inner, each)
    low.end_layer()
    low.end_cascade(inner)


def _fair(needs: Sequence[int], free: int) -> list[int]:
    """What each may take of what is free: small needs whole, large ones equal parts."""
    parts = [0] * len(needs)
    for taken, i in enumerate(sorted(range(len(needs)), key=lambda i: needs[i])):
        parts[i] = min(needs[i], max(free, 0) // (len(needs) - taken))
        free -= parts[i]
    return parts


#: What a layer does for a stripe: makes rows from the first to before the second, and reads these rows of tensors.
Span = tuple[int, int, Mapping[str, tuple[int, int]]]


@dataclass(frozen=True)
class _Member:
    """A layer of a cascade: its number and rows, how many waves after the first layer it begins, its stripes."""

    number: int
    layer: Layer
    rows: Rows
    delay: int
    spans: tuple[Span, ...]

    def at(self, wave: int) -> Span:
        """What it does in a wave."""
        stripe = wave - self.delay
        return self.spans[stripe] if 0 <= stripe < len(self.spans) else (0, 0, {})

    def read_next(self, wave: int) -> Mapping[str, tuple[int, int]]:
        """What it reads in the first wave from this on in which it reads anything."""
        stripe = max(wave - self.delay, 0)
        return self._read_next[stripe] if stripe < len(self.spans) else {}

    @functools.cached_property
    def _read_next(self) -> Sequence[Mapping[str, tuple[int, int]]]:
        needs: list[Mapping[str, tuple[int, int]]] = [{}]
        for _, _, now in reversed(self.spans):
            needs.append(now or needs[-1])
        return needs[:0:-1]


def _emit(
    low: Lowering,
    layers: Sequence[tuple[int, Layer]],
    made: Sequence[Rows],
    inner: frozenset[str],
    each: float,
) -> None:
    """Wave by wave: in each, a layer makes the stripe after the one that its readers work on."""
    alone = [layer for _, layer in layers]
    makers, peers = _makers(low.storage, low.network, alone), _peers(low.storage, alone, inner)
    spans = _spans(alone, made, makers, peers, each)
    delays = _delays(alone, makers, peers)
    members = [
        _Member(number, layer, rows, delays[layer.output], spans[layer.output])
        for (number, layer), rows in zip(layers, made, strict=True)
    ]
    stripes = len(spans[layers[-1][1].output])
    makers_of = {
        buffer: [m for m in members if low.storage.spots[m.layer.output].buffer == buffer]
        for buffer in sorted(inner)
    }
    clock = _Clock()
    for image in range(made[-1].images):
        for wave in range(stripes + max(delays.values())):
            copies = [
                copy
                for buffer, mine in makers_of.items()
                for copy in _make_tile(low, members, mine, buffer, image, wave)
            ]
            _interleave(low, members, copies, image, wave, clock)
            low.turn_over()
        low.turn_over(inner)


def _makers(storage: Storage, network: Network, layers: Sequence[Layer]) -> dict[str, tuple[str, ...]]:
    """For each tensor that is read, the outputs of layers before that have bytes in common with it."""
    makers: dict[str, tuple[str, ...]] = {}
    for at, layer in enumerate(layers):
        for name in operands(layer):
            before = [other.output for other in layers[:at]]
            makers.setdefault(name, tuple(o for o in before if _overlap(storage, network, o, name)))
    return makers


def _overlap(storage: Storage, network: Network, a: str, b: str) -> bool:
    """Whether two tensors have bytes in common: of images in one buffer, columns and bytes of a pixel."""
    one, two = storage.spots[a], storage.spots[b]
    if one.buffer != two.buffer:
        return False
    if one.strides[:-1] != two.strides[:-1]:
        return True
    extents = []
    for name, spot in ((a, one), (b, two)):
        column, byte = divmod(spot.offset, spot.strides[2])
        _, _, columns, channels = network.tensors[name].shape
        extents.append(((column, column + columns), (byte, byte + channels * spot.strides[3])))
    return all(x[0] < y[1] and y[0] < x[1] for x, y in zip(*extents, strict=True))


def _peers(storage: Storage, layers: Sequence[Layer], inner: frozenset[str]) -> dict[str, list[str]]:
    """For each output those that stay together with it, itself among them: all of an inner buffer, whose tile they share."""
    buffers = {layer.output: storage.spots[layer.output].buffer for layer in layers}
    return {a: [b for b in buffers if b == a or buffers[b] == buffers[a] in inner] for a in buffers}


def _spans(
    layers: Sequence[Layer], made: Sequence[Rows], makers: Mapping[str, tuple[str, ...]],
    peers: Mapping[str, Sequence[str]], each: float,
) -> dict[str, tuple[Span, ...]]:  # fmt: skip
    """By each layer's output what it does for each stripe; no row is made twice.

    All go at the same pace, ``each`` of the last one's rows a stripe, as far as there are rows to read: what windows
    reach beyond a stripe makes the layers behind later, and no tile larger.
    """
    rows_of = {layer.output: rows for layer, rows in zip(layers, made, strict=True)}
    grain = {name: math.lcm(*(rows_of[other].grain for other in peers[name])) for name in rows_of}
    last, stripe = made[-1].height, 0.0
    done = dict.fromkeys(rows_of, 0)
    spans: dict[str, list[Span]] = {name: [] for name in rows_of}
    while any(done[name] < rows.height for name, rows in rows_of.items()):
        stripe = min(stripe + each, last)
        ends: dict[str, int] = {}
        needs: dict[str, Mapping[str, tuple[int, int]]] = {}
        for name, rows in rows_of.items():
            most = done[name] + _up(rows.height * each / last, grain[name])
            ends[name] = min(_up(rows.height * stripe / last, grain[name]), most, rows.height)
        together = False
        while not together:
            for name, rows in rows_of.items():
                end = min(ends[other] for other in peers[name])
                while True:
                    needs[name] = rows.needs(done[name], end - done[name]) if end > done[name] else {}
                    if (end % grain[name] == 0 or end == rows.height) and _has_rows(
                        needs[name], makers, ends
                    ):
                        break
                    end -= 1
                ends[name] = end
            together = all(ends[name] == ends[other] for name in ends for other in peers[name])
        assert ends != done or stripe < last, "layers wait for each other"
        for name in rows_of:
            spans[name].append((done[name], ends[name], needs[name]))
        done = ends
    return {name: tuple(each_one) for name, each_one in spans.items()}


def _has_rows(
    needs: Mapping[str, tuple[int, int]], makers: Mapping[str, tuple[str, ...]], ends: Mapping[str, int]
) -> bool:
    """What is needed of each tensor is made."""
    return all(high <= ends[maker] for name, (_, high) in needs.items() for maker in makers[name])


def _up(rows: float, grain: int) -> int:
    """Rounded up to a multiple of ``grain``."""
    return math.ceil(rows / grain) * grain


def _delays(
    layers: Sequence[Layer], makers: Mapping[str, tuple[str, ...]], peers: Mapping[str, Sequence[str]]
) -> dict[str, int]:
    """How many waves after the first each layer begins: one after those that it reads; peers at once."""
    delays = {layer.output: 0 for layer in layers}
    before = {
        layer.output: [maker for source in operands(layer) for maker in makers[source]] for layer in layers
    }
    while True:
        later = {
            name: max(
                [*(delays[peer] for peer in peers[name]), *(delays[maker] + 1 for maker in before[name])]
            )
            for name in delays
        }
        if later == delays:
            return delays
        delays = later


def _make_tile(
    low: Lowering, members: Sequence[_Member], mine: Sequence[_Member], buffer: str, image: int, wave: int
) -> list[_Work]:
    """The tile of a buffer for what ``mine``, its makers, make in this wave and what later waves still read; the latter is
    copied, which is work for a layer of its makers."""
    made = [(begin, end) for m in mine for begin, end, _ in [m.at(wave)] if end > begin]
    if not made:
        return []
    begin, end = min(b for b, _ in made), max(e for _, e in made)
    first = begin
    for reader in members:
        for name, span in reader.read_next(wave + 1).items():
            if span[0] < first and low.storage.spots[name].buffer == buffer:
                first = span[0]
    old = low.row_region(mine[0].layer.output, image, first, begin - first) if first < begin else None
    low.hold(mine[0].layer.output, image, first, end - first)
    if old is None:
        return []
    new = low.row_region(mine[0].layer.output, image, first, begin - first, writing=True)
    return [_Work(low, mine[0].number, _copy(low, old, new, *_pixel(low, mine)))]


def _copy(low: Lowering, old: Region, new: Region, used: int, pixel: int) -> Pieces:
    """Copy rows, of each pixel the bytes that are used; where these are all, in runs of any length."""
    size = old.rows * old.row
    unit, most = (COPIED_BYTES, MOST_BYTES) if used == pixel else (pixel, size)

    def emit(window: Window) -> None:
        begin, end = window[2] * unit, min(window[3] * unit, size)
        for at in range(begin, end, most):
            run = min(most, end - at)
            w, c = (1, run) if used == pixel else (run // pixel, used)
            low.emitter.emit(
                "map", {"src": old.symbol, "dst": new.symbol}, h=1, w=w, c=c, src=old.address + at, src_row=old.row,
                src_pixel=pixel, dst=new.address + at, dst_row=new.row, dst_pixel=pixel,
            )  # fmt: skip

    bytes_each = COPIED_BYTES if used == pixel else used
    return in_pieces(0, 1, -(-size // unit), bytes_each / low.target.vx_elements_per_cycle, emit)


def _pixel(low: Lowering, members: Sequence[_Member]) -> tuple[int, int]:
    """Bytes of a pixel of a buffer up to the last that its makers write, and from one pixel to the next."""
    pixel, used = 0, 0
    for member in members:
        spot, tensor = low.storage.spots[member.layer.output], low.network.tensors[member.layer.output]
        pixel = spot.strides[2]
        used = max(used, spot.offset % pixel + tensor.shape[3] * spot.strides[3])
    return used, pixel


@dataclass
class _Clock:
    """When mx and vx are done with what was emitted, and the halves of the accumulators are drained (cycles)."""

    mx: int = 0
    vx: int = 0
    drained: tuple[int, int] = (0, 0)


class _Work:
    """The pieces of a layer; ``next`` is what the one to come takes, or, if only vx does it, what all that is left takes.
    None: there is none, or nobody has looked yet. ``share`` is the part of ``total`` cycles that is emitted with it."""

    def __init__(self, low: Lowering, number: int, pieces: Pieces, total: int = 0) -> None:
        self._low, self._number, self._pieces, self._total = low, number, pieces, total
        self._looked = 0
        self.next: Cycles | None = None
        self.share = 0.0

    def step(self, cycles: int | None = None) -> None:
        """Emit the next piece, if somebody has looked, one of vx of about so many cycles; look at the one after it."""
        self._low.emitter.layer = self._number
        try:
            self.next = self._pieces.send(cycles)
        except StopIteration:
            self.next = None
        else:
            self._looked += sum(self.next)
            self.share = self._looked / self._total if self._total else 0.0


def _interleave(
    low: Lowering, members: Sequence[_Member], copies: Sequence[_Work], image: int, wave: int, clock: _Clock
) -> None:  # fmt: skip
    """Emit the stripes of a wave, in an order in which neither mx nor vx waits: blocks of all layers in turns, each as far
    as the others are, and what only vx does, cut to size, where it would wait for a block."""
    mx: list[_Work] = []
    vx = [*copies]
    for member in reversed(members):
        begin, end, _ = member.at(wave)
        if end > begin:
            total = sum(member.rows.cycles(end - begin))
            work = _Work(low, member.number, member.rows.emit(image, begin, end - begin), total)
            (mx if isinstance(member.layer.operation, Conv) else vx).append(work)
    for work in mx:
        work.step()
    while mx := [work for work in mx if work.next is not None]:
        block = min(mx, key=lambda work: work.share)
        assert block.next is not None
        array, vector = block.next
        end = max(clock.mx, clock.drained[0]) + array
        _fill(vx, clock, end)
        clock.mx, clock.vx = end, max(clock.vx, end) + vector
        clock.drained = clock.drained[1], clock.vx
        block.step()
    _fill(vx, clock, None)


def _fill(waiting: list[_Work], clock: _Clock, until: int | None) -> None:
    """Emit what waits for vx, as much as it can do until a time, or all."""
    while waiting and (until is None or until - clock.vx >= LEAST_CYCLES):
        work = waiting[0]
        if work.next is None:
            work.step()
        if work.next is not None:
            before = work.next[1]
            work.step(None if until is None else until - clock.vx)
            clock.vx += before - work.next[1] + VX_STARTUP_CYCLES if work.next else before
        if work.next is None:
            waiting.pop(0)


def _stripes_and_tiles(
    low: Lowering, layers: Sequence[Layer], inner: frozenset[str], each: float
) -> tuple[dict[str, int], dict[str, int]]:
    """How many rows of each layer's output a stripe makes, and about the bytes of a tile of each inner buffer."""
    last = height(low.network, layers[-1])
    made = {layer.output: math.ceil(each * height(low.network, layer) / last) for layer in layers}
    there = dict(made)
    for layer in layers:
        source = layer.input_name
        if source in made and isinstance(layer.operation, Conv | Pool):
            window, up = layer.operation.window, getattr(layer.operation, "upsample", (1, 1))[0]
            span = (window.kernel[0] - 1) * window.dilations[0] + 1
            under = ((made[layer.output] - 1) * window.strides[0] + span) // up + (up > 1)
            there[source] = min(max(there[source], under), low.shape(source)[1])
    tiles = dict.fromkeys(inner, 0)
    for name, rows in there.items():
        buffer = low.storage.spots[name].buffer
        if buffer in inner:
            tiles[buffer] = max(tiles[buffer], rows * low.strides(name)[1])
    return made, tiles
