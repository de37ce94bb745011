"""The cache of observations: hit by the same model and data, missed by others, made again when damaged."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ommatid.compiler import observed_file
from ommatid.compiler.cache_folder import cache_folder
from ommatid.compiler.errors import CompileError
from ommatid.compiler.form import form_of
from ommatid.compiler.observe import observe
from ommatid.compiler.observed_file import observed_once
from tests import networks

NAMES = ("x", "c", "r", "y")


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the times that the network was run over the data."""
    monkeypatch.setenv("OMMATID_CACHE_DIR", str(tmp_path / "cache"))
    counted: list[int] = []

    def counting(*args: Any) -> Any:
        counted.append(1)
        return observe(*args)

    monkeypatch.setattr(observed_file, "observe", counting)
    return counted


def look(seeds: tuple[int, ...] = (0, 1), model: Any = None, names: tuple[str, ...] = NAMES) -> Any:
    return observed_once(
        form_of(ir.from_proto(model or networks.convolution())),
        names,
        lambda: (networks.inputs(seed) for seed in seeds),
    )


def same(a: Any, b: Any) -> bool:
    return list(a) == list(b) and all(
        (a[n].histogram.counts == b[n].histogram.counts).all()
        and (a[n].histogram.sums == b[n].histogram.sums).all()
        and (a[n].histogram.reach, a[n].histogram.low, a[n].histogram.high, a[n].count)
        == (b[n].histogram.reach, b[n].histogram.low, b[n].histogram.high, b[n].count)
        and all((getattr(a[n], f) == getattr(b[n], f)).all() for f in ("channel_low", "channel_high", "channel_sum"))
        for n in a
    )  # fmt: skip


def test_hit(runs: list[int]) -> None:
    first, second = look(), look()
    assert same(first, second) and len(runs) == 1
    assert first["c"].channel_low.shape == (8,) and first["c"].count == 2 * 64


def test_miss(runs: list[int]) -> None:
    other = networks.convolution()
    weights = onnx.numpy_helper.to_array(other.graph.initializer[0]).copy()
    weights[0, 0, 0, 0] += 1
    other.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "w"))
    look()
    for arguments in ({"seeds": (0, 2)}, {"seeds": (0, 1, 2)}, {"model": other}, {"names": ("x", "c")}):
        before = len(runs)
        look(**arguments)
        assert len(runs) == before + 1, arguments


def test_miss_by_large_weights(runs: list[int]) -> None:
    """These are not in the model's message."""
    for weights in (np.ones((3, 2000), np.float32), np.zeros((3, 2000), np.float32)):
        node = networks.helper.make_node("Einsum", ["x", "w"], ["y"], "n", equation="ncij,ck->nk")
        look(
            model=networks.model([node], {"x": [1, 3, 8, 8]}, {"y": [1, 2000]}, {"w": weights}), names=("y",)
        )
    assert len(runs) == 2


def test_samples_are_not_kept(runs: list[int]) -> None:
    """There are as many as two at a time that run, the one that is made, and one that is let go."""
    alive: list[weakref.ref[Any]] = []

    def samples() -> Iterator[dict[str, Any]]:
        for seed in range(8):
            made = networks.inputs(seed)
            alive.append(weakref.ref(made["x"]))
            yield made
            del made
            assert sum(ref() is not None for ref in alive) <= 4

    observed_once(form_of(ir.from_proto(networks.convolution())), NAMES, samples)
    assert len(alive) == 16  # once for the key, once to be run


def test_a_damaged_entry_is_made_again(runs: list[int]) -> None:
    first = look()
    (path,) = cache_folder().iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert same(look(), first) and len(runs) == 2


def test_a_cache_that_cannot_be_written(runs: list[int], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert same(look(), look()) and len(runs) == 2


def test_infinite_tensors_are_named() -> None:
    huge = {"x": np.full((1, 3, 8, 8), 3e38, np.float32)}
    with pytest.raises(CompileError, match="'c' becomes infinite"):
        observe(form_of(ir.from_proto(networks.convolution())), NAMES, [huge])
