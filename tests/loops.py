"""Compiles the inner loops before the tests, each once: two workers would both compile all of them.

``python -m tests.loops``; what is kept on disk is not compiled again.
"""

from __future__ import annotations

import multiprocessing
import sys

import onnx

from ommatid.runtime.compile import WARM, compile_model
from ommatid.simulator.functional import Machine
from ommatid.simulator.timing import simulate
from tests.simulator.programs import random_program

SEEDS = range(12)  # enough to have elements of 8 bits alone, and of 16


def results() -> None:
    """The functional executor's."""
    for seed in SEEDS:
        program = random_program(seed)
        Machine(program, threads=1).run(0, len(program.instructions))


def times() -> None:
    """Those of timing, and of the compiler."""
    compile_model(onnx.parser.parse_model(WARM))
    for target in ("ommatid-1k", "ommatid-4k"):
        for seed in SEEDS:
            simulate(random_program(seed, target))


if __name__ == "__main__":
    processes = [multiprocessing.Process(target=each) for each in (results, times)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(any(process.exitcode for process in processes))
