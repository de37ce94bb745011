"""The cores that instructions are made for, and the memories that they have of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ommatid.compiler.emit import Emitter
from ommatid.compiler.parts import Parts, Range
from ommatid.compiler.sram import Sram
from ommatid.isa.target import Target


@dataclass(kw_only=True)
class OnCores:
    """What is made for which cores.

    ``cores`` are those that instructions are now made for: what is allocated has the same address on each, what is loaded
    is loaded by the first and goes to all; to compute, it must be one. ``held`` has by buffer the bytes that each core
    holds of it (one core: all). ``parts`` are those of the layer that is being lowered, if cores share it.
    """

    target: Target
    held: Mapping[str, tuple[Range, ...]] = field(default_factory=dict)
    emitter: Emitter = field(default_factory=Emitter)
    cores: tuple[int, ...] = (0,)
    parts: Parts | None = None
    srams: list[Sram] = field(init=False)
    half: list[int] = field(init=False)  # of the accumulators, which was given out last
    _kept: list[tuple[tuple[int, ...], int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.srams = [Sram(self.target.sram_bytes) for _ in range(self.target.cores)]
        self.half = [0] * self.target.cores

    @property
    def sram(self) -> Sram | Together:
        """The SRAM of the cores that instructions are made for."""
        return self._of(self.cores)

    @property
    def everywhere(self) -> Sram | Together:
        """The SRAM of all cores."""
        return self._of(range(self.target.cores))

    def _of(self, cores: Sequence[int]) -> Sram | Together:
        return self.srams[cores[0]] if len(cores) == 1 else Together([self.srams[core] for core in cores])

    def on(self, *cores: int) -> None:
        """From now on make instructions for these cores."""
        self.cores, self.emitter.core = cores, cores[0]

    def share(self, parts: Parts | None) -> None:
        """Begin a layer: of the cores that have a part of it, or of the first alone."""
        self.parts = parts
        self.on(*([core for core, part in enumerate(parts) if part.pixel_rows] if parts else (0,)))

    def first_held(self, buffer: str) -> int:
        """The first byte of a buffer that the core holds, where it lies in SRAM."""
        return self.held[buffer][self.cores[0]][0] if buffer in self.held else 0

    def keep_for_layer(self, address: int) -> None:
        """Give back this tile when the layer ends."""
        self._kept.append((self.cores, address))

    def release_kept(self) -> None:
        """The layer has ended."""
        for cores, address in self._kept:
            self._of(cores).release(address)
        self._kept.clear()


class Together:
    """Allocates as ``Sram`` does, what is free in the SRAM of each of these cores."""

    def __init__(self, srams: Sequence[Sram]) -> None:
        self._srams = srams

    def _union(self) -> Sram:
        """An SRAM in which all is taken that is so anywhere."""
        union = Sram(self._srams[0].size, pointer=max(sram.pointer for sram in self._srams))
        for begin, end in sorted(pair for sram in self._srams for pair in sram.taken):
            if union.taken and begin < union.taken[-1][1]:
                union.taken[-1] = (union.taken[-1][0], max(end, union.taken[-1][1]))
            else:
                union.taken.append((begin, end))
        return union

    def _take(self, address: int, size: int) -> int:
        for sram in self._srams:
            sram.take(address, size)
        return address

    @property
    def pointer(self) -> int:
        """Where the circle of tiles goes on."""
        return max(sram.pointer for sram in self._srams)

    @pointer.setter
    def pointer(self, address: int) -> None:
        for sram in self._srams:
            sram.pointer = address

    def gaps(self) -> list[tuple[int, int]]:
        """The free ranges, in order of address."""
        return self._union().gaps()

    def free_bytes(self) -> int:
        """Bytes that are free, in however many ranges."""
        return self._union().free_bytes()

    def tile(self, size: int) -> int:
        """As ``Sram.tile``."""
        union = self._union()
        address = union.tile(size)
        self.pointer = union.pointer
        return self._take(address, size)

    def stay(self, size: int, at: int | None = None) -> int:
        """As ``Sram.stay``."""
        return self._take(self._union().stay(size, at), size)

    def release(self, address: int) -> None:
        """Give back the buffer at ``address``."""
        for sram in self._srams:
            sram.release(address)
