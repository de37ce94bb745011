"""The demo: a trained detector on the NPU finds the lines of a page."""

from __future__ import annotations

import numpy as np
import pytest

from ommatid.isa.program_file import from_bytes, to_bytes
from ommatid.profiler.demo import page, read, run_demo
from ommatid.runtime.session import InferenceSession


def edits(a: str, b: str) -> int:
    """Levenshtein's distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y)))
    return row[-1]


@pytest.mark.long
def test_demo_reads_the_page(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMMATID_CACHE_DIR", str(tmp_path))
    result = run_demo(str(tmp_path / "page.png"))  # type: ignore[operator]
    assert len(result.expected) == 5
    found = [e for e in result.expected if any(edits(e, line) <= len(e) / 20 for line in result.lines)]
    assert len(found) >= 4, result.lines
    assert all(p.placement == "npu" for p in result.session.program.partitions)
    assert not any(type(v).__module__.startswith("onnxruntime") for v in vars(result.session).values())
    assert result.npu_macs_share >= 0.99
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")  # type: ignore[operator]
    # the weights are really what runs: zero those of the costliest convolution and the boxes change
    program = from_bytes(to_bytes(result.session.program))
    roles = program.symbols["role"]
    largest = max(np.flatnonzero(roles == 0), key=lambda i: program.symbols["bytes"][i])
    begin = int(program.symbols["address"][largest])
    program.constants[begin : begin + int(program.symbols["bytes"][largest])] = 0
    altered = from_bytes(to_bytes(program))
    assert read(page(), InferenceSession(altered))[0] != result.boxes
