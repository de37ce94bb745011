"""The command line in this process, and a compiled program to point it at."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ommatid.cli.main import main
from tests import networks


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Its one JSON object."""
        table: dict[str, Any] = json.loads(self.out)
        return table


@pytest.fixture
def ommatid(capsys: Any, tmp_path: Path, monkeypatch: Any) -> Callable[..., Ran]:
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMMATID_DEBUG", raising=False)

    def run(*arguments: Any) -> Ran:
        with pytest.raises(SystemExit) as left:
            main([str(a) for a in arguments])
            raise SystemExit(0)
        captured = capsys.readouterr()
        return Ran(int(left.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.onnx, samples.npz, its program model.omm and its quantised form model_qdq.onnx."""
    folder = tmp_path_factory.mktemp("files")
    onnx.save(networks.convolution(), folder / "model.onnx")
    samples = np.concatenate([networks.inputs(seed)["x"] for seed in range(4)])
    np.savez(folder / "samples.npz", x=samples)
    np.save(folder / "x.npy", networks.inputs()["x"])
    arguments = ["compile", folder / "model.onnx", "-o", folder / "model.omm", "-q"]
    arguments += ["--calibration", folder / "samples.npz", "--save-qdq", folder / "model_qdq.onnx"]
    try:
        main([str(a) for a in arguments])
    except SystemExit as left:
        assert not left.code
    return folder
