"""Preprocessing: an image file becomes a network's input. The options travel in the program."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
COLORS = ("rgb", "bgr")
RESIZES = ("stretch", "letterbox")
LETTERBOX_GREY = 114
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


class ImageError(ValueError):
    """An image, or preprocessing options, that cannot be used; ``hint`` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes an input: ``(pixel / 255 - mean) / std`` by channel, in the order of ``color``.

    ``mean`` and ``std`` hold one number, or one a channel. ``stretch`` ignores the aspect ratio;
    ``letterbox`` keeps it and centres the image on grey.

    Raises:
        ImageError: an unknown choice, or a mean or std that is not finite (std: not above zero).
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    color: str = "rgb"
    resize: str = "stretch"

    def __post_init__(self) -> None:
        for name, value, choices in (("color", self.color, COLORS), ("resize", self.resize, RESIZES)):
            if value not in choices:
                raise ImageError(f"{name} {value!r} is unknown", f"use one of {', '.join(choices)}")
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            bad = [v for v in numbers if not math.isfinite(v) or (name == "std" and v <= 0)]
            if bad or not numbers:
                raise ImageError(
                    f"{name} {list(numbers)}: must be finite numbers{', above zero' * (name == 'std')}"
                )

    def to_dict(self) -> dict[str, Any]:
        """The options, as a program's ``info["preprocess"]`` holds them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def __call__(self, image: Any, shape: tuple[int, ...]) -> Array:
        """An image (path, PIL image, uint8 [h, w] or [h, w, channels]) as float32 of ``shape`` (1, c, h, w).

        Raises:
            ImageError: the file is no image, or the shape is none of an image.
        """
        channels, height, width = image_shape(shape)
        pixels = _pixels(_resized(_opened(image, channels), height, width, self.resize), channels, self.color)
        mean, std = (_by_channel(name, v, channels) for name, v in (("mean", self.mean), ("std", self.std)))
        real = (pixels.astype(np.float32) / np.float32(255) - mean) / std
        return np.ascontiguousarray(real.transpose(2, 0, 1)[None])


def preprocess_from(table: Mapping[str, Any]) -> Preprocess:
    """The options in a program's ``info["preprocess"]``."""
    mean, std = (tuple(float(v) for v in table[name]) for name in ("mean", "std"))
    return Preprocess(mean, std, table["color"], table["resize"])


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(channels, height, width) of an input that takes one image.

    Raises:
        ImageError: the shape is not 1 x (1 or 3) x height x width.
    """
    if len(shape) != 4 or shape[0] != 1 or shape[1] not in (1, 3):
        raise ImageError(
            f"an input of shape {list(shape)} takes no image",
            "images need [1, 1 or 3, height, width]; use .npy or .npz",
        )
    return shape[1], shape[2], shape[3]


def load_input(path: str | Path, shape: tuple[int, ...], preprocess: Preprocess | None) -> Array:
    """The array of one input from a ``.npy`` file, as it is, or from an image.

    Raises:
        ImageError: the file cannot be read, or is an image and the program has no preprocessing options.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        try:
            array: Array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ImageError(f"{path}: cannot be read as .npy: {_reason(error)}") from None
        return array
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise ImageError(
            f"{path}: unknown kind of input file", f"use {', '.join(IMAGE_SUFFIXES)}, .npy or .npz"
        )
    return (preprocess or Preprocess())(path, shape)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _opened(image: Any, channels: int) -> Any:
    from PIL import Image, UnidentifiedImageError

    if isinstance(image, str | Path):
        try:
            with Image.open(image) as opened:
                return opened.convert("L" if channels == 1 else "RGB")
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise ImageError(f"{image}: cannot be read as an image: {_reason(error)}") from None
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    return image.convert("L" if channels == 1 else "RGB")


def _resized(image: Any, height: int, width: int, resize: str) -> Any:
    from PIL import Image

    if resize == "stretch":
        return image.resize((width, height), Image.Resampling.BILINEAR)
    factor = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    grey = LETTERBOX_GREY if image.mode == "L" else (LETTERBOX_GREY,) * 3
    sheet = Image.new(image.mode, (width, height), grey)
    sheet.paste(
        image.resize(size, Image.Resampling.BILINEAR), ((width - size[0]) // 2, (height - size[1]) // 2)
    )
    return sheet


def _pixels(image: Any, channels: int, color: str) -> Array:
    pixels = np.asarray(image).reshape(image.height, image.width, channels)
    return pixels[..., ::-1] if color == "bgr" else pixels


def _by_channel(name: str, numbers: tuple[float, ...], channels: int) -> Array:
    if len(numbers) not in (1, channels):
        raise ImageError(f"{name} has {len(numbers)} numbers; the input has {channels} channels")
    return np.asarray(numbers, np.float32)
