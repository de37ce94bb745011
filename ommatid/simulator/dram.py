"""The DRAM's bandwidth among its clients."""

from __future__ import annotations

from typing import Any

import numba


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def share(active: Any, caps: Any, bandwidth: float, rates: Any) -> None:
    """Max-min fair rates of the active clients: none above its cap; what one leaves goes to the others."""
    left, unsettled = bandwidth, 0
    for i in range(len(active)):
        rates[i] = -1.0 if active[i] else 0.0
        unsettled += active[i]
    while unsettled > 0:
        equal = left / unsettled
        capped = 0
        for i in range(len(active)):
            if rates[i] < 0 and caps[i] <= equal:
                rates[i] = caps[i]
                left -= caps[i]
                capped += 1
        if not capped:
            for i in range(len(active)):
                if rates[i] < 0:
                    rates[i] = equal
            return
        unsettled -= capped
