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
    for c in range(np.int64(f.n3)):
        for b in range(np.int64(f.n2)):
            for a in range(np.int64(f.n1)):
                s = np.int64(f.src) + a * np.int64(f.src_s1) + b * np.int64(f.src_s2) + c * np.int64(f.src_s3)
                d = np.int64(f.dst) + a * np.int64(f.dst_s1) + b * np.int64(f.dst_s2) + c * np.int64(f.dst_s3)
                source, to = src[s : s + run], dst[d : d + run]
                for i in range(run):
                    to[i] = source[i]


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def fill(r: Any, dst: Any) -> None:
    """Execute a ``fill`` record."""
    f = r[0]
    run = np.int64(f.run)
    for c in range(np.int64(f.n3)):
        for b in range(np.int64(f.n2)):
            for a in range(np.int64(f.n1)):
                d = np.int64(f.dst) + a * np.int64(f.dst_s1) + b * np.int64(f.dst_s2) + c * np.int64(f.dst_s3)
                dst[d : d + run] = f.value


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def copy(r: Any, sram: Any) -> None:
    """Execute a ``copy`` record: byte after byte, the innermost loop first."""
    f = r[0]
    n0, src_s0, dst_s0 = np.int64(f.n0), np.int64(f.src_s0), np.int64(f.dst_s0)
    for d in range(np.int64(f.n3)):
        for c in range(np.int64(f.n2)):
            for b in range(np.int64(f.n1)):
                s = np.int64(f.src) + d * np.int64(f.src_s3) + c * np.int64(f.src_s2) + b * np.int64(f.src_s1)
                t = np.int64(f.dst) + d * np.int64(f.dst_s3) + c * np.int64(f.dst_s2) + b * np.int64(f.dst_s1)
                if src_s0 == 1 and dst_s0 == 1:
                    source, to = sram[s : s + n0], sram[t : t + n0]
                    for a in range(n0):
                        to[a] = source[a]
                else:
                    for a in range(n0):
                        sram[t + a * dst_s0] = sram[s + a * src_s0]
