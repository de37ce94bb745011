"""Layers that can be made some rows at a time: the code of an operation says what rows it reads for those that it
makes, and emits them in pieces. A *stripe* is a range of a layer's output rows."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

from ommatid.compiler.lower import Lowering
from ommatid.compiler.parts import Parts, by_channels
from ommatid.isa.cost import VX_STARTUP_CYCLES

#: Cycles of mx and of vx.
Cycles = tuple[int, int]
#: Work emitted piece by piece: says before each what it takes, or, if only vx does it, what all that is left takes; it
#: can then be sent the cycles that the next piece should take.
Pieces = Generator[Cycles, int | None, None]
#: Rows and columns, each from the first to before the last.
Window = tuple[int, int, int, int]


@dataclass(frozen=True)
class Share:
    """What a layer of a cascade may take: rows of a stripe at most, and SRAM bytes for its weights and tiles."""

    rows: int
    sram_bytes: int


@dataclass(frozen=True)
class Rows:
    """A layer ready to be made by rows.

    ``each`` are the rows of a stripe, and those a stripe begins at are multiples of ``grain``. ``needs(first, rows)``
    gives for tensors that it reads the range of rows under output rows ``first`` .. ``first + rows``.
    ``emit(image, first, rows)`` emits their instructions piece by piece; ``cycles(rows)`` is about what all take.
    """

    images: int
    height: int
    each: int
    needs: Callable[[int, int], Mapping[str, tuple[int, int]]]
    emit: Callable[[int, int, int], Pieces]
    cycles: Callable[[int], Cycles]
    grain: int = 1

    def stripes(self, parts: Parts | None = None, core: int = 0) -> list[tuple[int, int, int]]:
        """Image, first row and rows of each stripe of a core's part, or of all of the layer."""
        images, (begin, end) = (0, self.images), (0, self.height)
        if parts and not by_channels(parts):
            images, (begin, end) = parts[core].images, parts[core].rows
        firsts = range(begin, end, self.each)
        return [(image, first, min(self.each, end - first)) for image in range(*images) for first in firsts]


def in_pieces(
    first: int, rows: int, columns: int, pixel_cycles: float, emit: Callable[[Window], None]
) -> Pieces:
    """Work of vx on rows of an image, in whole rows where the cycles of a piece allow it; ``emit`` does a window."""
    row, column, after = first, 0, first + rows
    while row < after:
        left = ((after - row) * columns - column) * pixel_cycles
        cycles = yield 0, int(left) + VX_STARTUP_CYCLES
        if cycles is None:
            cycles = int(left) + 1 + VX_STARTUP_CYCLES
        pixels = max(int((cycles - VX_STARTUP_CYCLES) / pixel_cycles), 1)
        if column or pixels < columns:
            end = min(column + pixels, columns)
            emit((row, row + 1, column, end))
            row, column = (row + 1, 0) if end == columns else (row, end)
        else:
            end = min(row + pixels // columns, after)
            emit((row, end, 0, columns))
            row = end


def emit_layer(low: Lowering, rows: Rows) -> None:
    """Emit a whole layer, stripe by stripe, that of one core beside those of the others, piece by piece."""
    cores, parts = low.cores, low.parts
    stripes = {core: rows.stripes(parts, core) for core in cores}
    for number in range(max(map(len, stripes.values()))):
        work = {core: rows.emit(*mine[number]) for core, mine in stripes.items() if number < len(mine)}
        while work:
            for core, pieces in list(work.items()):
                low.on(core)
                if next(pieces, None) is None:
                    del work[core]
    low.on(*cores)
    low.end_layer()
