"""What whole processes cost: seconds of ``ommatid run``, and memory that simulating takes above the imports."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ommatid.runtime.compile import compile_model
from tests.workloads import images, source

MEMORY = """
import re, sys
import numpy as np
import ommatid.runtime.session as session
from ommatid.isa.program_file import load
from ommatid.profiler.profile import profile
def peak():  # of this process alone; ru_maxrss begins with what its parent had
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024
before = peak()
program = load(sys.argv[1])
if sys.argv[2] == "timing":
    profile(program)
else:
    session.InferenceSession(program).run(None, {program.inputs[0].name: np.load(sys.argv[3])})
print(peak() - before)
"""


def process_table() -> Table:
    """SqueezeNet by the command line, the second time; ResNet-50's memory."""
    table = Table("process", "", title="whole processes")
    with tempfile.TemporaryDirectory() as folder:
        program, picture = _prepared("squeezenet", folder)
        command = [sys.executable, "-m", "ommatid", "run", program, "-i", picture, "-o", folder, "-q"]
        seconds = [_seconds(command) for _ in range(3)]
        table.add_row("ommatid run squeezenet.omm, first", f"{seconds[0]:.2f} s")
        table.add_row("then", f"{min(seconds[1:]):.2f} s")
        program, picture = _prepared("resnet50", folder)
        for what in ("functional", "timing"):
            args = [sys.executable, "-c", MEMORY, program, what, picture]
            used = subprocess.run(args, check=True, capture_output=True, text=True).stdout
            table.add_row(f"resnet50 {what}, peak above the imports", f"{float(used):.0f} MiB")
    return table


def _prepared(name: str, folder: str) -> tuple[str, str]:
    program, picture = Path(folder) / f"{name}.omm", Path(folder) / f"{name}.npy"
    compile_model(source(name)).save(str(program))
    image: Any = images(name, 1)[0]
    np.save(picture, image)
    return str(program), str(picture)


def _seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin
