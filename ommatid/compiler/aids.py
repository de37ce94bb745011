"""What makes a search quicker, or shows it, and never changes what it finds."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from ommatid.compiler.helpers import Helpers

#: Of a trial its outline, and what it costs.
Found = tuple[str, float]


def _to_nobody(doing: str, share: float) -> None:
    """Says nothing."""


@dataclass(frozen=True)
class Aids:
    """Costs of earlier trials by ``outline``; who is told what is being done, and which share of it; and processes that
    try what the search is likely to ask for next."""

    remembered: MutableMapping[str, float] = field(default_factory=dict)
    say: Callable[[str, float], None] = _to_nobody
    helpers: Helpers = field(default_factory=lambda: Helpers(0))

    def hear(self) -> list[tuple[int, Any, float]]:
        """Remember what helpers found since the last time: tasks, trials and costs."""
        found = list(self.helpers.results())
        for _, _, (alike, cost) in found:
            self.remembered.setdefault(alike, cost)
        return [(task, trial, cost) for task, trial, (_, cost) in found]
