"""SRAM as lowering sees it: whole tensors that stay, and tile buffers that come and go.

Tile buffers are handed out in a circle over what is free, so that a buffer is reused as late as possible:
the load engine can then run far ahead. Tensors that stay are put at the top, out of the circle's way.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

ALIGN = 64


def aligned(size: int, to: int = ALIGN) -> int:
    """``size`` rounded up to a multiple of ``to``."""
    return -(-size // to) * to


class DoesNotFit(Exception):
    """No free range of that size; ``need_bytes`` is the size."""

    def __init__(self, need_bytes: int) -> None:
        super().__init__(f"{need_bytes} bytes of SRAM")
        self.need_bytes = need_bytes


@dataclass
class Sram:
    """An allocator of ``size`` bytes; addresses are multiples of 64."""

    size: int
    taken: list[tuple[int, int]] = field(default_factory=list)  # sorted (begin, end)
    pointer: int = 0
    peak_bytes: int = 0
    _used: int = 0

    def gaps(self) -> list[tuple[int, int]]:
        """The free ranges, in order of address."""
        edges = [0, *(edge for pair in self.taken for edge in pair), self.size]
        return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a]

    def tile(self, size: int) -> int:
        """The address of a buffer of ``size`` bytes, next around the circle.

        Raises:
            DoesNotFit: no free range is large enough.
        """
        size = aligned(size)
        for start in (self.pointer, 0):
            at = bisect.bisect_right(self.taken, (start, self.size))
            low = max(start, self.taken[at - 1][1]) if at else start
            while at < len(self.taken) and self.taken[at][0] - low < size:
                low = self.taken[at][1]
                at += 1
            if at < len(self.taken) or self.size - low >= size:
                self.pointer = low + size
                return self.take(low, size)
        raise DoesNotFit(size)

    def stay(self, size: int, at: int | None = None) -> int:
        """The address of a buffer of ``size`` bytes: the one planned for it, or one as high as possible.

        Raises:
            DoesNotFit: that is not free, or no free range is large enough.
        """
        size = aligned(size)
        for low, high in reversed(self.gaps()):
            begin = high - size if at is None else at
            if low <= begin and begin + size <= high:
                return self.take(begin, size)
        raise DoesNotFit(size)

    def release(self, address: int) -> None:
        """Give back the buffer at ``address``."""
        at = bisect.bisect_left(self.taken, (address, 0))
        if at == len(self.taken) or self.taken[at][0] != address:
            raise KeyError(address)
        self._used -= self.taken[at][1] - address
        del self.taken[at]

    def free_bytes(self) -> int:
        """Bytes that are free, in however many ranges."""
        return self.size - sum(b - a for a, b in self.taken)

    def take(self, address: int, size: int) -> int:
        """Take what is free at ``address``."""
        bisect.insort(self.taken, (address, address + size))
        self._used += size
        self.peak_bytes = max(self.peak_bytes, self._used)
        return address
