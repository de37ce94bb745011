"""Layers that can be made some rows at a time: the code of an operation says what rows it reads for those that it
makes, and emits them in pieces. A *stripe* is a range of a layer's output rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ommatid.compiler.lower import Lowering

#: Cycles of mx and of vx.
Cycles = tuple[int, int]


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
    ``emit(image, first, rows)`` emits their instructions piece by piece, and says before each about how many cycles
    of mx and of vx it takes. ``divisible``: a stripe can as well be emitted row by row.
    """

    images: int
    height: int
    each: int
    needs: Callable[[int, int], Mapping[str, tuple[int, int]]]
    emit: Callable[[int, int, int], Iterator[Cycles]]
    grain: int = 1
    divisible: bool = False

    def pieces(self) -> Iterator[Cycles]:
        """All of the layer, stripe by stripe."""
        for image in range(self.images):
            for first in range(0, self.height, self.each):
                yield from self.emit(image, first, min(self.each, self.height - first))


def emit_alone(low: Lowering, rows: Rows) -> None:
    """Emit a whole layer."""
    for _ in rows.pieces():
        pass
    low.end_layer()
