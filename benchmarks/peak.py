"""The most products that this core can do in a second: a loop of independent multiply-adds and nothing else."""

from __future__ import annotations

import time
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ommatid.simulator.kernels.multiply import AVX2, EIGHT, SHORTS, VNNI, Path
from ommatid.simulator.settings import kernels

CHAINS = 12


def _loop(path: Path) -> Any:
    factors = EIGHT if path is VNNI else SHORTS

    def typed(typing_context: Any, turns: Any, seed: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            factor = ir.Constant(factors, [3] * factors.count)
            sums = [cgutils.alloca_once(builder, EIGHT) for _ in range(CHAINS)]
            for i, place in enumerate(sums):
                builder.store(ir.Constant(EIGHT, [i] * 8), place)
            with cgutils.for_range(builder, args[0]):
                for place in sums:
                    builder.store(path.add(builder, builder.load(place), factor, factor), place)
            total = ir.Constant(EIGHT, None)
            for place in sums:
                total = builder.add(total, builder.load(place))
            return builder.extract_element(total, ir.IntType(32)(0))

        return types.int32(turns, seed), codegen

    return intrinsic(typed)


_vnni, _avx2 = _loop(VNNI), _loop(AVX2)


@numba.njit  # type: ignore[untyped-decorator]
def vnni(turns: int) -> int:
    """``turns`` times CHAINS ``vpdpbusd``."""
    return _vnni(turns, 0)


@numba.njit  # type: ignore[untyped-decorator]
def avx2(turns: int) -> int:
    """``turns`` times CHAINS ``vpmaddwd`` with an addition."""
    return _avx2(turns, 0)


def peak_gmacs() -> float:
    """Products a second, in 1e9, of one core on the path that the kernels take; 0 for the portable one."""
    path = kernels()
    if path == "portable":
        return 0.0
    function, products = (vnni, 32) if path == "vnni" else (avx2, 16)
    turns, best = 1_000_000, float("inf")
    function(1)
    for _ in range(10):
        begin = time.process_time()
        function(turns)
        best = min(best, time.process_time() - begin)
    return turns * CHAINS * products / best / 1e9
