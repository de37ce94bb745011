"""The compiler with the timing executor as its judge: what ``ommatid.compile`` and the command line call."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.compiler import pipeline
from ommatid.compiler.layers import Network
from ommatid.isa.program import Program
from ommatid.isa.target import DEFAULT_TARGET, Target

Array = np.ndarray[Any, Any]


def finish_cycles(program: Program) -> Array:
    """When each instruction of a program of one partition is finished (cycles, int64)."""
    from ommatid.simulator.timing import simulate

    return simulate(program).finish


def compile_model(
    model: Any, target: Any = DEFAULT_TARGET, optimize: int = 2, info: dict[str, Any] | None = None, **options: Any
) -> Program:  # fmt: skip
    """``compiler.pipeline.compile_model``, which see, with cycles estimated by the timing executor."""
    return pipeline.compile_model(model, target, optimize, info, estimate=finish_cycles, **options)


def compile_network(network: Network, target: Target, optimize: int = 2) -> Program:
    """``compiler.pipeline.compile_network``, likewise."""
    return pipeline.compile_network(network, target, optimize, estimate=finish_cycles)
