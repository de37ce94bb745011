"""Calibration data: from folders, .npz files and memory, one sample at a time; what cannot be used is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image

from ommatid.compiler.calibration import RANDOM_SAMPLES, samples
from ommatid.compiler.errors import CompileError
from ommatid.compiler.model import import_model
from tests import networks

Array = np.ndarray[Any, Any]
ONE = import_model(networks.convolution())  # x: [1, 3, 8, 8]
TWO = import_model(
    networks.model([networks.helper.make_node("Add", ["x", "z"], ["y"], "add")], {"x": [1, 4], "z": [2, 4]}, {"y": [2, 4]})
)  # fmt: skip


def sample(seed: int) -> Array:
    return networks.inputs(seed)["x"]


def taken(data: Any, model: ir.Model = ONE, preprocess: Any = None) -> list[dict[str, Array]]:
    return list(samples(model, data, preprocess))


def refused(data: Any, model: ir.Model = ONE, preprocess: Any = None) -> str:
    with pytest.raises(CompileError) as caught:
        taken(data, model, preprocess)
    return str(caught.value)


def test_a_folder_of_arrays_in_order_of_name(tmp_path: Path) -> None:
    for name, seed in (("b.npy", 1), ("a.npy", 0), ("C.NPY", 2)):
        with open(tmp_path / name, "wb") as file:
            np.save(file, sample(seed)[0] if seed else sample(seed))  # with or without a batch axis
    (tmp_path / "notes.txt").write_text("not a sample")
    (tmp_path / "folder").mkdir()
    for data in (tmp_path, str(tmp_path)):
        feeds = taken(data)
        assert all((f["x"] == sample(seed)).all() for f, seed in zip(feeds, (2, 0, 1), strict=True))


def test_a_folder_of_images(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "c.JPEG", "d.bmp"):
        Image.new("RGB", (5, 4), (10, 20, 30)).save(tmp_path / name)
    seen = []

    def preprocess(path: Path, shape: tuple[int, ...]) -> Array:
        seen.append((path.name, shape))
        return np.full(shape, len(seen), np.uint8)

    feeds = taken(tmp_path, preprocess=preprocess)
    assert seen == [(name, (1, 3, 8, 8)) for name in ("a.png", "b.jpg", "c.JPEG", "d.bmp")]
    assert [f["x"].dtype for f in feeds] == [np.float32] * 4 and [f["x"].max() for f in feeds] == [1, 2, 3, 4]
    assert refused(tmp_path) == f"{tmp_path}/a.png: images need preprocessing options"


def test_an_archive_has_one_array_for_each_input(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    x, z = (np.random.default_rng(0).standard_normal(shape) for shape in ((3, 4), (3, 2, 4)))
    np.savez(path, x=x, z=z, more=np.zeros(1))
    feeds = taken(path, TWO)
    assert len(feeds) == 3 and all(list(f) == ["x", "z"] for f in feeds)
    for i, f in enumerate(feeds):
        assert (f["x"] == x[i : i + 1].astype(np.float32)).all() and (f["z"] == z[i].astype(np.float32)).all()


def test_samples_in_memory_are_not_changed() -> None:
    given = {"x": sample(0)[0].astype(np.float64), "more": np.zeros(1)}
    (feeds,) = taken([given])
    assert list(feeds) == ["x"] and feeds["x"].shape == (1, 3, 8, 8) and feeds["x"].dtype == np.float32
    assert list(given) == ["x", "more"] and given["x"].shape == (3, 8, 8) and given["x"].dtype == np.float64


def test_an_array_may_be_used_again_for_the_next() -> None:
    buffer = np.zeros((1, 3, 8, 8), np.float32)

    def stream() -> Iterator[dict[str, Array]]:
        for seed in range(3):
            buffer[:] = sample(seed)
            yield {"x": buffer}

    for seed, feeds in enumerate(list(samples(ONE, stream(), None))):
        np.testing.assert_array_equal(feeds["x"], sample(seed))


def test_one_at_a_time() -> None:
    made = []

    def stream() -> Iterator[dict[str, Array]]:
        for seed in range(3):
            made.append(seed)
            yield networks.inputs(seed)

    feeds = samples(ONE, stream(), None)
    assert made == []
    for seed in range(3):
        assert (next(feeds)["x"] == sample(seed)).all() and made == list(range(seed + 1))


def test_files_are_read_when_their_turn_comes(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", sample(0))
    (tmp_path / "b.npy").write_bytes(b"not an array")
    feeds = samples(ONE, tmp_path, None)
    assert next(feeds)["x"].shape == (1, 3, 8, 8)
    with pytest.raises(CompileError, match=r"b\.npy: cannot be read as \.npy"):
        next(feeds)


def test_random_numbers_are_the_same_every_time() -> None:
    first, second = taken(None), taken(None)
    assert len(first) == RANDOM_SAMPLES
    assert all((a["x"] == b["x"]).all() for a, b in zip(first, second, strict=True))
    assert not (first[0]["x"] == first[1]["x"]).all()


def test_what_cannot_be_read(tmp_path: Path) -> None:
    assert refused(tmp_path) == f"{tmp_path}: holds no calibration samples"
    assert refused([]) == "[]: holds no calibration samples"
    assert refused(tmp_path / "none") == f"{tmp_path}/none: no such folder or .npz file of calibration data"
    assert refused(tmp_path, TWO) == f"{tmp_path}: the model has 2 inputs; a folder feeds only one"
    whole = tmp_path / "whole.npz"
    np.savez(whole, x=sample(0))
    array = tmp_path / "array.npz"
    with open(array, "wb") as file:
        np.save(file, sample(0))
    for data in (b"", b"PK\x03\x04", whole.read_bytes()[:-30], b"text", array.read_bytes()):
        (tmp_path / "bad.npz").write_bytes(data)
        assert refused(tmp_path / "bad.npz").startswith(f"{tmp_path}/bad.npz: cannot be read as .npz: ")
    assert refused(tmp_path / "none.npz").startswith(f"{tmp_path}/none.npz: cannot be read as .npz: ")


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"text"])
def test_a_broken_array(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    assert refused(tmp_path).startswith(f"{tmp_path}/a.npy: cannot be read as .npy: ")


def test_no_pickles(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([print]), allow_pickle=True)
    assert "a.npy: cannot be read as .npy: Object arrays cannot be loaded" in refused(tmp_path)


def test_other_names_and_shapes(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    np.savez(path, x=np.zeros((2, 4)))
    assert refused(path, TWO) == f"{path}: has no array for input 'z'"
    np.savez(path, x=np.zeros((2, 4)), z=np.zeros((2, 4)))
    wrong = "a sample for 'z' has shape [4]; the model wants [2, 4]"
    assert refused(path, TWO) == f"{path}: {wrong}"
    np.savez(path, x=np.zeros((2, 4)), z=np.float32(1))
    assert refused(path, TWO) == f"{path}: array 'z' has no axis of samples"
    np.savez(path, x=np.zeros((2, 4)), z=np.zeros((3, 2, 4)))
    assert refused(path, TWO) == f"{path}: holds 2 samples for 'x' and 3 for 'z'"
    assert refused([{"x": np.zeros(4)}], TWO) == "calibration data: no sample for input 'z'"
    assert refused([{"x": np.zeros((1, 4)), "z": np.zeros(4)}], TWO) == f"calibration data: {wrong}"


@pytest.mark.parametrize("value", [np.nan, np.inf, "text"])
def test_samples_that_are_no_numbers(value: Any) -> None:
    array = sample(0).astype(object if value == "text" else np.float32)
    array[0, 0, 0, 0] = value
    wrong = "has type object; the model wants float32" if value == "text" else "holds NaN or infinity"
    assert refused([{"x": array}]) == f"calibration data: a sample for 'x' {wrong}"
