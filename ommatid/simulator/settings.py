"""What the environment says about the host: ``OMMATID_KERNELS`` and ``OMMATID_THREADS``."""

from __future__ import annotations

import os

from ommatid.simulator.kernels.multiply import available

MOST_THREADS = 4


class SettingError(ValueError):
    """An environment variable that cannot be followed; ``hint`` says what can."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def kernels() -> str:
    """The path of ``kernels.multiply`` to take: ``OMMATID_KERNELS``, or (``auto``) the CPU's best.

    Raises:
        SettingError: the CPU has no such path.
    """
    given = os.environ.get("OMMATID_KERNELS") or "auto"
    if given != "auto" and given not in available():
        raise SettingError(
            f"OMMATID_KERNELS is {given!r}, which this CPU has not", f"set auto, {' or '.join(available())}"
        )
    return available()[0] if given == "auto" else given


def threads() -> int:
    """Threads that execute a program: ``OMMATID_THREADS``, or one for each CPU that we may use, at most 4.

    Raises:
        SettingError: it is no number from 1 on.
    """
    given = os.environ.get("OMMATID_THREADS")
    if given:
        if not given.isdecimal() or int(given) < 1:
            raise SettingError(f"OMMATID_THREADS is {given!r}", "set a number from 1 on")
        return int(given)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cpus, MOST_THREADS)
