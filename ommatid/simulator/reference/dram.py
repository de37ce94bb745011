"""The DRAM: a credit of bytes that pays for bursts, and the clients that ask for them in turn."""

from __future__ import annotations

from collections import deque
from fractions import Fraction

from ommatid.isa.target import Target


class Client:
    """The load or store engine of a core, or the fetcher."""

    def __init__(self, slot: int, limit: int | None) -> None:
        self.slot = slot  # cycles from a grant until another may take its place
        self.limit = limit  # bursts in flight; None: any number
        self.flying: deque[int] = deque()  # cycles of the grants in flight
        self.wanted = 0  # bursts that may be requested now
        self.granted = 0  # bursts, ever

    def asks(self, cycle: int) -> bool:
        """Whether it requests a burst in this cycle."""
        while self.flying and self.flying[0] + self.slot <= cycle:
            self.flying.popleft()
        return self.wanted > 0 and (self.limit is None or len(self.flying) < self.limit)

    def grant(self, cycle: int) -> None:
        """One of its bursts moves."""
        self.wanted -= 1
        self.granted += 1
        if self.limit is not None:
            self.flying.append(cycle)
            assert len(self.flying) <= self.limit, "too many bursts in flight"


def bytes_a_cycle(target: Target) -> Fraction:
    """The DRAM's bandwidth, exactly as the target file's decimals say."""
    return Fraction(repr(target.dram_gb_s)) * 1000 / Fraction(repr(target.clock_mhz))


class Dram:
    """Grants bursts to its clients, in turn."""

    def __init__(self, target: Target, clients: list[Client]) -> None:
        rate = bytes_a_cycle(target)
        self.rate = rate.numerator  # of credit a cycle; its unit is a byte / rate.denominator
        self.burst = target.dram_burst_bytes * rate.denominator
        self.credit = 0
        self.clients = clients
        self.turn = 0  # the client whose turn it is

    def step(self, cycle: int) -> list[int]:
        """One cycle; the clients granted a burst, each time they are."""
        self.credit += self.rate
        granted: list[int] = []
        while self.credit >= self.burst and (client := self._next(cycle)) is not None:
            self.credit -= self.burst
            assert self.credit >= 0, "bursts without credit"
            self.clients[client].grant(cycle)
            self.turn = (client + 1) % len(self.clients)
            granted.append(client)
        self._cap()
        return granted

    def next_event(self, cycle: int) -> int | None:
        """The next cycle in which this may grant, if nobody's wishes change after ``cycle``."""
        if self._next(cycle) is not None:
            assert self.credit < self.burst, "credit is left while somebody asks"
            return cycle - (self.credit - self.burst) // self.rate
        limited = [c.flying[0] + c.slot for c in self.clients if c.wanted and c.flying]
        return min(limited, default=None)

    def skip(self, cycles: int) -> None:
        """Cycles in which nobody's wishes change and nothing is granted."""
        self.credit += cycles * self.rate
        self._cap()

    def _cap(self) -> None:
        """While somebody asks less than a burst is left; so this holds only where nobody does."""
        self.credit = min(self.credit, self.burst + self.rate)

    def _next(self, cycle: int) -> int | None:
        for n in range(len(self.clients)):
            client = (self.turn + n) % len(self.clients)
            if self.clients[client].asks(cycle):
                return client
        return None
