"""The cache on disk: one entry a model and set of options, shared by processes, mended where damaged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ommatid.compiler import pipeline
from ommatid.compiler.cache_folder import cache_folder
from ommatid.compiler.recipe import Recipe, to_toml
from ommatid.isa.program_file import to_bytes
from ommatid.runtime.cache import compiled
from tests import networks
from tests.runtime.conftest import Both


@pytest.fixture
def model(npu: Both, tmp_path: Path, monkeypatch: Any) -> Path:
    """The quantised model as a file, with an empty cache beside it."""
    monkeypatch.setenv("OMMATID_CACHE_DIR", str(tmp_path / "cache"))
    onnx.save(npu.qdq, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.fixture
def compilations(monkeypatch: Any) -> list[Any]:
    """Grows by one with every compilation."""
    calls: list[Any] = []
    original = pipeline.compile_model

    def counted(source: Any, *rest: Any, **options: Any) -> Any:
        calls.append(source)
        return original(source, *rest, **options)

    monkeypatch.setattr(pipeline, "compile_model", counted)
    return calls


def entries() -> list[Path]:
    """Programs that lie in the cache."""
    return sorted(cache_folder().glob("*.omm"))


def test_compiled_once(model: Path, compilations: list[Any]) -> None:
    first, again = compiled(model, {}), compiled(model, {})
    assert len(compilations) == 1 and len(entries()) == 1
    assert to_bytes(first) == to_bytes(again)


def test_what_makes_another_entry(model: Path, compilations: list[Any]) -> None:
    options: list[dict[str, Any]] = [{}, {"target": "ommatid-256"}, {"optimize": 0}, {"target": "ommatid-4k"}]
    for number, each in enumerate(options, 1):
        compiled(model, each)
        assert len(entries()) == number
    onnx.save(networks.convolution(), model)
    compiled(model, {})
    assert len(entries()) == len(options) + 1 == len(compilations)


def test_calibration_data_is_part_of_the_key(model: Path, tmp_path: Path, compilations: list[Any]) -> None:
    onnx.save(networks.convolution(), model)
    data = tmp_path / "samples.npz"
    for seed in (0, 1, 0):
        np.savez(data, **networks.inputs(seed))
        compiled(model, {"calibration": str(data)})
    assert len(compilations) == 2


def test_calibration_in_memory_is_part_of_the_key(
    tmp_path: Path, monkeypatch: Any, compilations: list[Any]
) -> None:
    monkeypatch.setenv("OMMATID_CACHE_DIR", str(tmp_path / "cache"))
    samples = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    for factor in (1, 2, 1):  # so large that their texts would be cut short
        options = {"calibration": [{"x": samples * np.float32(factor)}]}
        compiled(networks.convolution(size=64), options)
    assert len(compilations) == 2


def test_a_recipe_is_part_of_the_key(model: Path, tmp_path: Path, compilations: list[Any]) -> None:
    """By what it says, in memory or in a file."""
    recipe, source = Recipe("int8"), networks.convolution()
    (tmp_path / "r.toml").write_text(to_toml(recipe), encoding="utf-8")
    for given in (recipe, Recipe("int8"), tmp_path / "r.toml", Recipe("uint8"), None):
        compiled(source, {"recipe": given})
    assert len(compilations) == 3


def test_external_data_is_part_of_the_key(tmp_path: Path, monkeypatch: Any, compilations: list[Any]) -> None:
    monkeypatch.setenv("OMMATID_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "m.onnx"
    for factor in (1.0, 2.0, 1.0):
        made = networks.convolution()
        weights = onnx.numpy_helper.to_array(made.graph.initializer[0]) * np.float32(factor)
        made.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "w"))
        (tmp_path / "weights.bin").unlink(missing_ok=True)
        onnx.save(made, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        compiled(path, {})
    assert len(compilations) == 2


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_entry_is_made_again(model: Path, compilations: list[Any], damage: bytes | None) -> None:
    wanted = to_bytes(compiled(model, {}))
    entry = entries()[0]
    entry.write_bytes(entry.read_bytes()[:-1] if damage is None else damage)
    assert to_bytes(compiled(model, {})) == wanted == entry.read_bytes()
    assert len(compilations) == 2


def test_a_cache_that_cannot_be_written(model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("OMMATID_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert compiled(model, {}).layers


def test_two_processes_share_it(model: Path) -> None:
    code = f"from ommatid.runtime.cache import compiled; compiled({str(model)!r}, {{}})"
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert [path.suffix for path in entries()] == [".omm"]
    assert entries()[0].read_bytes() == to_bytes(compiled(model, {}))
