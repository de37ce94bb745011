"""``load``, ``store``, ``fill`` and ``copy``: bytes from one place to another."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def transfer(r: Any, src: Any, dst: Any) -> None:
    """Execute a ``load`` or ``store`` record between two memories."""
    f = r[0]
    run = np.int64(f.run)
    for c in range(f.n3):
        for b in range(f.n2):
            for a in range(f.n1):
                s = np.int64(f.src) + a * np.int64(f.src_s1) + b * np.int64(f.src_s2) + c * np.int64(f.src_s3)
                d = np.int64(f.dst) + a * np.int64(f.dst_s1) + b * np.int64(f.dst_s2) + c * np.int64(f.dst_s3)
                dst[d : d + run] = src[s : s + run]


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def fill(r: Any, dst: Any) -> None:
    """Execute a ``fill`` record."""
    f = r[0]
    for c in range(f.n3):
        for b in range(f.n2):
            for a in range(f.n1):
                d = np.int64(f.dst) + a * np.int64(f.dst_s1) + b * np.int64(f.dst_s2) + c * np.int64(f.dst_s3)
                dst[d : d + np.int64(f.run)] = f.value


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def copy(r: Any, sram: Any) -> None:
    """Execute a ``copy`` record."""
    f = r[0]
    for d in range(f.n3):
        for c in range(f.n2):
            for b in range(f.n1):
                s = np.int64(f.src) + d * np.int64(f.src_s3) + c * np.int64(f.src_s2) + b * np.int64(f.src_s1)
                t = np.int64(f.dst) + d * np.int64(f.dst_s3) + c * np.int64(f.dst_s2) + b * np.int64(f.dst_s1)
                for a in range(f.n0):
                    sram[t + a * np.int64(f.dst_s0)] = sram[s + a * np.int64(f.src_s0)]
