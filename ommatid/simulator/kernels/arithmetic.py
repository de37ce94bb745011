"""Scalar arithmetic that the kernels share: fused multiply-add, requantisation, bytes as numbers."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic  # type: ignore[untyped-decorator]
def fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """float32 a * b + c, rounded once."""
    signature = types.float32(types.float32, types.float32, types.float32)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        single = ir.FloatType()
        shape = ir.FunctionType(single, [single] * 3)
        return builder.call(builder.module.declare_intrinsic("llvm.fma", [single], shape), args)

    return signature, codegen


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def number(byte: int, signed: int) -> Any:
    """The value of a byte (0..255) as int8 (``signed`` 1) or uint8."""
    flip = np.int32(128 * signed)
    return np.int32((np.int32(byte) ^ flip) - flip)


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def quantised(t: float, zero: int, signed: int) -> Any:
    """The byte of float32 ``t``: clamped to the type's range, rounded half to even, zero point added."""
    low = np.float32(-128 * signed - zero)
    high = np.float32(255 - 128 * signed - zero)
    clamped = min(max(t, low), high)
    return np.uint8((np.int32(np.rint(clamped)) + zero) & 255)
