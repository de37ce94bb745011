"""The compiler with the timing executor as its judge: what ``ommatid.compile`` and the command line call."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from ommatid.compiler import pipeline
from ommatid.compiler.aids import Aids
from ommatid.compiler.layers import Network
from ommatid.isa.program import Program
from ommatid.isa.target import DEFAULT_TARGET, Target
from ommatid.runtime.trials import stored_trials

Array = np.ndarray[Any, Any]


def finish_cycles(program: Program) -> Array:
    """When each instruction of a program of one partition is finished (cycles, int64)."""
    from ommatid.simulator import timing

    return timing.finish_cycles(program)


def compile_model(
    model: Any, target: Any = DEFAULT_TARGET, optimize: int = 2, info: dict[str, Any] | None = None,
    searching: Callable[[str, float], None] | None = None, **options: Any,
) -> Program:  # fmt: skip
    """``compiler.pipeline.compile_model``, which see, with cycles estimated by the timing executor.

    ``searching`` is told what the search of schedules has come to, and how much of it is done at most (0 to 1).
    """
    aids = _aids(optimize, searching)
    return pipeline.compile_model(model, target, optimize, info, estimate=finish_cycles, aids=aids, **options)


def compile_network(
    network: Network, target: Target, optimize: int = 2, processes: int | None = None
) -> Program:
    """``compiler.pipeline.compile_network``, likewise; -O3 in so many processes (None: one for each CPU)."""
    aids = _aids(optimize, processes=processes)
    return pipeline.compile_network(network, target, optimize, estimate=finish_cycles, aids=aids)


def _aids(
    optimize: int, say: Callable[[str, float], None] | None = None, processes: int | None = None
) -> Aids:
    """Below -O3 a search takes less time than other processes need to begin."""
    many = (processes or len(os.sched_getaffinity(0))) if optimize > 2 else 1
    told = {} if say is None else {"say": say}
    return Aids(stored_trials(), processes=many, **told)
