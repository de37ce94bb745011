"""The most products that this core can do in a second: a loop of independent multiply-adds and nothing else."""

from __future__ import annotations

import time
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ommatid.simulator.kernels.multiply import AVX2, SHORTS, VNNI, VNNI512, Path
from ommatid.simulator.settings import kernels

CHAINS = 12


def _loop(path: Path) -> Any:
    sums = path.channels
    factors = SHORTS if path is AVX2 else sums

    def typed(typing_context: Any, turns: Any, seed: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            factor = ir.Constant(factors, [3] * factors.count)
            places = [cgutils.alloca_once(builder, sums) for _ in range(CHAINS)]
            for i, place in enumerate(places):
                builder.store(ir.Constant(sums, [i] * sums.count), place)
            with cgutils.for_range(builder, args[0]):
                for place in places:
                    held = builder.load(place)
                    other = builder.bitcast(held, factors)  # a product of constants would be made once
                    builder.store(path.add(builder, held, other, factor), place)
            total = ir.Constant(sums, None)
            for place in places:
                total = builder.add(total, builder.load(place))
            return builder.extract_element(total, ir.IntType(32)(0))

        return types.int32(turns, seed), codegen

    return intrinsic(typed)


_vnni512, _vnni, _avx2 = _loop(VNNI512), _loop(VNNI), _loop(AVX2)


@numba.njit  # type: ignore[untyped-decorator]
def vnni512(turns: int) -> int:
    """``turns`` times CHAINS 512-bit ``vpdpbusd``."""
    return _vnni512(turns, 0)


@numba.njit  # type: ignore[untyped-decorator]
def vnni(turns: int) -> int:
    """``turns`` times CHAINS 256-bit ``vpdpbusd``."""
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
    function, products = {"vnni512": (vnni512, 64), "vnni": (vnni, 32), "avx2": (avx2, 16)}[path]
    turns, best = 1_000_000, float("inf")
    function(1)
    for _ in range(10):
        begin = time.process_time()
        function(turns)
        best = min(best, time.process_time() - begin)
    return turns * CHAINS * products / best / 1e9
