"""Where an engine's cycles go: busy, stalls by cause, idle."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ommatid.simulator.reference.decode import ENGINES

#: Causes of stalls; a missing token is of the engine that it comes from, or that has no room for it.
CAUSES = ("fetch", "bandwidth", "latency", "bank", *(f"token {engine}" for engine in ENGINES))


@dataclass(frozen=True)
class Account:
    """The cycles of one engine; busy + idle + all stalls are the run's."""

    busy: int
    idle: int
    stalls: dict[str, int]  # cause (of CAUSES) to cycles; none where it is absent

    @property
    def total(self) -> int:
        """All cycles."""
        return self.busy + self.idle + sum(self.stalls.values())


class Ledger:
    """Collects one engine's account: what it does from a moment on, until told otherwise."""

    def __init__(self) -> None:
        self.cycles: Counter[str] = Counter()
        self.what = "idle"
        self.since = 0

    def now(self, moment: int, what: str) -> None:
        """From ``moment`` on the engine does ``what``: busy, idle or a cause."""
        self.cycles[self.what] += moment - self.since
        self.what, self.since = what, moment

    def move(self, cycles: int, cause: str) -> None:
        """So many cycles of those counted as busy were stalls."""
        assert cycles >= 0, "busy for less than it takes"
        self.cycles["busy"] -= cycles
        self.cycles[cause] += cycles

    def account(self) -> Account:
        """The account so far."""
        stalls = {cause: self.cycles[cause] for cause in CAUSES if self.cycles[cause]}
        return Account(self.cycles["busy"], self.cycles["idle"], stalls)
