"""What compiling is helped by: other processes for large models, and no collection of garbage."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from ommatid.compiler.helpers import Helpers
from ommatid.isa.target import load_target
from ommatid.runtime import compile as module
from tests.compiler.nets import Net
from tests.compiler.test_cascade import filled


def test_a_large_model_is_helped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its bytes, in whichever form it is given; and the program is the same."""
    began: list[int] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setattr(module, "_helpers", lambda count, process: began.append(count) or Helpers(0))
    model = module.onnx.parser.parse_model(module.WARM)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    programs = []
    for large in (1 << 20, 0):
        monkeypatch.setattr(module, "LARGE_BYTES", large)
        programs += [module.compile_model(source) for source in (model, model.SerializeToString(), path)]
    module.compile_model(model, optimize=1)  # which tries nothing
    assert began == [0, 0, 0, 2, 2, 2, 0]
    assert len({program.instructions.tobytes() for program in programs}) == 1


def test_levels_with_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    """-O3 has one for each other CPU, whatever the size; -O1 tries nothing."""
    began: list[int] = []
    monkeypatch.setattr(module, "_helpers", lambda count, process: began.append(count) or Helpers(0))
    net = Net(x=(1, 8, 8, 16))
    net.conv("x", "y", 16, kernel=1)
    filled(net)
    target = load_target("ommatid-1k")
    for level, processes in ((1, 4), (2, 4), (3, 1), (3, 4)):
        module.compile_network(net.network("y"), target, level, processes)
    assert began == [0, 0, 0, 3]


def test_helpers_are_made_ready_and_end_with_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[object] = []
    monkeypatch.setattr(module.atexit, "register", kept.append)
    made = module._helpers.__wrapped__(1, 0)
    process = made._all[0]._process
    assert kept == [made.close] and process is not None and process.poll() is None
    made.close()
    assert process.poll() is not None
    module._warm()  # what they do first


def test_garbage_is_collected_again_behind_a_compile() -> None:
    with pytest.raises(KeyError), module._uncollected():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
