"""``load``, ``store``, ``send``, ``fill`` and ``copy``: bytes from one place to another."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.compiled import kernel
from ommatid.simulator.kernels.vectors import move


@kernel
def transfer(f: Any, src: Any, dst: Any) -> None:
    """Execute a ``load``, ``store`` or ``send`` record between two memories."""
    run = np.int64(f.run)
    for c in range(np.int64(f.n3)):
        for b in range(np.int64(f.n2)):
            s = np.int64(f.src) + b * np.int64(f.src_s2) + c * np.int64(f.src_s3)
            d = np.int64(f.dst) + b * np.int64(f.dst_s2) + c * np.int64(f.dst_s3)
            for _ in range(np.int64(f.n1)):
                move(dst, d, src, s, run)
                s, d = s + np.int64(f.src_s1), d + np.int64(f.dst_s1)


@kernel
def fill(f: Any, dst: Any) -> None:
    """Execute a ``fill`` record."""
    run = np.int64(f.run)
    for c in range(np.int64(f.n3)):
        for b in range(np.int64(f.n2)):
            for a in range(np.int64(f.n1)):
                d = np.int64(f.dst) + a * np.int64(f.dst_s1) + b * np.int64(f.dst_s2) + c * np.int64(f.dst_s3)
                dst[d : d + run] = f.value


@kernel
def copy(f: Any, sram: Any, wide: Any) -> None:
    """Execute a ``copy`` record: element after element, the innermost loop first."""
    n0, src_s0, dst_s0 = np.int64(f.n0), np.int64(f.src_s0), np.int64(f.dst_s0)
    element = np.int64(1) if wide is None else np.int64(f.element_bytes)
    for d in range(np.int64(f.n3)):
        for c in range(np.int64(f.n2)):
            for b in range(np.int64(f.n1)):
                s = np.int64(f.src) + d * np.int64(f.src_s3) + c * np.int64(f.src_s2) + b * np.int64(f.src_s1)
                t = np.int64(f.dst) + d * np.int64(f.dst_s3) + c * np.int64(f.dst_s2) + b * np.int64(f.dst_s1)
                if src_s0 == element and dst_s0 == element:
                    move(sram, t, sram, s, n0 * element)
                else:
                    for a in range(n0):
                        for byte in range(element):
                            sram[t + a * dst_s0 + byte] = sram[s + a * src_s0 + byte]
