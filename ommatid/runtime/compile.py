"""The compiler with the timing executor as its judge: what ``ommatid.compile`` and the command line call."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ommatid.compiler import pipeline
from ommatid.compiler.aids import Aids
from ommatid.compiler.helpers import Helpers
from ommatid.compiler.layers import Network
from ommatid.isa.program import Program
from ommatid.isa.target import DEFAULT_TARGET, Target
from ommatid.runtime.trials import stored_trials

#: A model of more takes longer to quantise than another process needs to begin.
LARGE_BYTES = 1 << 24
#: A network that is compiled only to have all modules and inner loops of the compiler in memory.
WARM = """<ir_version: 8, opset_import: ["" : 17]>
warm (float[1,16,64,64] x) => (float[1,16,64,64] y) <
    float s = {0.1}, uint8 z = {128}, int8 wz = {0}, int64[4] shape = {16, 16, 3, 3}
> {
    w = ConstantOfShape <value = int8[1] {1}> (shape)
    wf = DequantizeLinear (w, s, wz)
    q0 = QuantizeLinear (x, s, z)
    f0 = DequantizeLinear (q0, s, z)
    c1 = Conv <pads = [1, 1, 1, 1]> (f0, wf)
    q1 = QuantizeLinear (c1, s, z)
    f1 = DequantizeLinear (q1, s, z)
    c2 = Conv <pads = [1, 1, 1, 1]> (f1, wf)
    a2 = Add (c2, f0)
    q2 = QuantizeLinear (a2, s, z)
    y = DequantizeLinear (q2, s, z)
}
"""
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
    large = _bytes(model) > LARGE_BYTES
    aids = _aids(optimize, large, searching)
    with _uncollected():
        return pipeline.compile_model(
            model, target, optimize, info, estimate=finish_cycles, aids=aids, **options
        )


def compile_network(
    network: Network, target: Target, optimize: int = 2, processes: int | None = None
) -> Program:
    """``compiler.pipeline.compile_network``, likewise; -O3 in so many processes (None: one for each CPU)."""
    aids = _aids(optimize, processes=processes)
    with _uncollected():
        return pipeline.compile_network(network, target, optimize, estimate=finish_cycles, aids=aids)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without searches for cycles of objects: a compile makes millions of objects, and hardly such a cycle."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _aids(
    optimize: int, large: bool = False, say: Callable[[str, float], None] | None = None,
    processes: int | None = None,
) -> Aids:  # fmt: skip
    """With helpers, if what is to be done takes longer than they need to begin."""
    count = (processes or len(os.sched_getaffinity(0))) - 1
    wanted = optimize > 2 or (large and optimize == 2)
    told = {} if say is None else {"say": say}
    return Aids(stored_trials(), helpers=_helpers(count if wanted else 0, os.getpid()), **told)


@functools.cache
def _helpers(count: int, process: int) -> Helpers:
    """Those of this process, which the next network finds ready."""
    helpers = Helpers(count)
    for _ in range(count):
        helpers.once(_warm)
    atexit.register(helpers.close)
    return helpers


def _warm() -> None:
    """Have a process ready: what compiles, and the code of all loops, takes it a second or two to load."""
    model = onnx.parser.parse_model(WARM)
    pipeline.compile_model(model, estimate=finish_cycles)


def _bytes(model: Any) -> int:
    """About how large a model is (bytes)."""
    if isinstance(model, bytes):
        return len(model)
    if isinstance(model, onnx.ModelProto):
        return model.ByteSize()
    with contextlib.suppress(OSError, TypeError):
        return Path(model).stat().st_size
    return 0
