"""Rates between two events: the DRAM's bandwidth among its clients, a core's banks among its engines."""

from __future__ import annotations

from typing import Any

import numba

from ommatid.simulator.crowding import AHEAD_BEATS

#: A core's engines by their priority at a bank: mx, vx, load, store.
PRIORITY = (2, 3, 0, 1)
#: A request that has waited so many cycles goes first, so that as many beats as are ahead pass in them at least.
STARVATION_CYCLES = 256


@numba.njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def dram_rates(s: Any, now: float) -> None:
    """Solve the shares of the clients that move bytes anew, and with them when each is through.

    Max-min fair: none above its cap; what one leaves goes to the others.
    """
    unsettled, left = 0, s.bandwidth
    for k in range(s.client_count):
        c = s.clients[k]
        if s.moving[c]:
            s.left[c] = max(0.0, s.left[c] - s.rate[c] * (now - s.since[c]))
            s.since[c], s.rate[c] = now, -1.0
            unsettled += 1
    while unsettled > 0:
        equal, capped = left / unsettled, 0
        for k in range(s.client_count):
            c = s.clients[k]
            if s.moving[c] and s.rate[c] < 0 and s.cap[c] <= equal:
                s.rate[c] = s.cap[c]
                left -= s.cap[c]
                capped += 1
        if not capped:
            settle_equal(s, equal)
            break
        unsettled -= capped
    for k in range(s.client_count):
        c = s.clients[k]
        if s.moving[c]:
            s.until[c] = now + s.left[c] / s.rate[c]


@numba.njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def settle_equal(s: Any, equal: float) -> None:
    """The clients whose rate is not settled share equally."""
    for k in range(s.client_count):
        c = s.clients[k]
        if s.moving[c] and s.rate[c] < 0:
            s.rate[c] = equal


@numba.njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def bank_speed(asked: float, left: float) -> float:
    """The part of its speed at which an engine works that asks for ``asked`` words a cycle where ``left`` are."""
    return max(min(1.0, left / asked), AHEAD_BEATS / STARVATION_CYCLES) if asked > 0 else 1.0


@numba.njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def slow_down(s: Any, q: int, speed: float, now: float) -> None:
    """Let the engine of a queue that computes go on at another speed."""
    s.left[q] = max(0.0, s.left[q] - s.rate[q] * (now - s.since[q]))
    s.since[q], s.rate[q] = now, speed
    s.until[q] = now + s.left[q] / speed
