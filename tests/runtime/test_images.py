"""Preprocessing against its formula written plainly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ommatid.runtime.images import (
    LETTERBOX_GREY,
    ImageError,
    Preprocess,
    load_input,
    preprocess_from,
)

numbers = st.lists(st.floats(0.1, 2), min_size=3, max_size=3).map(tuple)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(numbers, numbers, st.sampled_from(["rgb", "bgr"]), st.integers(1, 9), st.integers(1, 9))
def test_mean_std_and_color(mean: Any, std: Any, color: str, height: int, width: int) -> None:
    image = picture(height, width)
    made = Preprocess(mean, std, color)(image, (1, 3, height, width))
    assert made.dtype == np.float32 and made.shape == (1, 3, height, width)
    for c in range(3):
        source = image[..., c if color == "rgb" else 2 - c].astype(np.float64)
        assert np.allclose(made[0, c], (source / 255 - mean[c]) / std[c], atol=1e-5)


def test_stretch_and_letterbox() -> None:
    image = np.full((10, 20, 3), 255, np.uint8)
    assert (Preprocess()(image, (1, 3, 16, 16)) == 1).all()
    boxed = Preprocess(resize="letterbox")(image, (1, 3, 16, 16))[0]
    grey = np.float32(LETTERBOX_GREY) / np.float32(255)
    assert (boxed[:, 4:12] == 1).all() and (boxed[:, :4] == grey).all() and (boxed[:, 12:] == grey).all()


def test_grey_inputs_and_grey_images() -> None:
    grey = picture(4, 4)[..., 0]
    assert np.allclose(Preprocess()(grey, (1, 1, 4, 4))[0, 0], grey / 255, atol=1e-6)
    three = Preprocess()(grey, (1, 3, 4, 4))[0]
    assert np.array_equal(three[0], three[1]) and np.array_equal(three[1], three[2])


def test_files(tmp_path: Path) -> None:
    image = picture(6, 5)
    Image.fromarray(image).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", image)
    preprocess = Preprocess((0.5,), (0.25,), "bgr", "letterbox")
    assert np.array_equal(
        load_input(tmp_path / "a.png", (1, 3, 6, 5), preprocess), preprocess(image, (1, 3, 6, 5))
    )
    assert np.array_equal(load_input(tmp_path / "a.npy", (1, 3, 6, 5), preprocess), image)


def test_options_travel_as_plain_data() -> None:
    preprocess = Preprocess((0.5, 0.4, 0.3), (0.2,), "bgr", "letterbox")
    assert preprocess_from(preprocess.to_dict()) == preprocess


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"color": "cmyk"}, "cmyk"),
        ({"resize": "crop"}, "crop"),
        ({"std": (0.0,)}, "std"),
        ({"mean": (float("nan"),)}, "mean"),
        ({"mean": ()}, "mean"),
    ],
)
def test_unusable_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ImageError, match=words):
        Preprocess(**options)


def test_unusable_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"a\.png"):
        load_input(tmp_path / "a.png", (1, 3, 4, 4), None)
    with pytest.raises(ImageError, match=r"a\.txt"):
        load_input(tmp_path / "a.txt", (1, 3, 4, 4), None)
    with pytest.raises(ImageError, match=r"\[1, 7, 4, 4\]"):
        Preprocess()(picture(4, 4), (1, 7, 4, 4))
    with pytest.raises(ImageError, match="channels"):
        Preprocess((0.1, 0.2))(picture(4, 4), (1, 3, 4, 4))
