"""Lines of text as pictures: several fonts and sizes, slightly blurred, turned and noisy, the same for a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Array = np.ndarray[Any, Any]
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral", "STIXGeneralBol",
    "DejaVuSans-Oblique", "DejaVuSerif-Bold",
)  # fmt: skip
SIZES = (12, 15, 18, 24)  # pixels
PAGE = (384, 512)  # rows and columns of a page
LINES_A_PAGE = 8
TEXT = """the camera counts every parcel that leaves a shelf and writes its number down before noon when light fades
over quiet harbour streets where small boats carry fresh bread cheese olives under grey sails Most drivers know which
bridge will open first because signals change twice an hour except Sunday Invoice Total Route Quantity Gate Platform
Weight below above maximum kilograms please keep dry handle with care fragile glass expected delivery window between
return label inspect valve pressure before use Junction Yard Zebra quick fox"""
WORDS = TEXT.split()


def page(seed: int) -> tuple[Array, list[str]]:
    """A page, uint8 [384, 512, 3], and its lines from top to bottom."""
    generator = np.random.default_rng(seed)
    paper, ink = int(generator.integers(170, 250)), int(generator.integers(10, 70))
    shade = np.linspace(0, generator.integers(-50, 20), PAGE[1])[None] + np.linspace(
        0, generator.integers(-30, 20), PAGE[0]
    ).reshape(-1, 1)
    canvas = Image.new("L", (PAGE[1], PAGE[0]), paper)
    texts = []
    for row in range(LINES_A_PAGE):
        text, strip = _line(generator, ink, paper)
        canvas.paste(strip, (int(generator.integers(8, 24)), 8 + row * (PAGE[0] - 16) // LINES_A_PAGE))
        texts.append(text)
    turned = canvas.rotate(float(generator.uniform(-1, 1)), Image.Resampling.BICUBIC, fillcolor=paper)
    soft = turned.filter(ImageFilter.GaussianBlur(float(generator.uniform(0.2, 0.7))))
    noisy = np.asarray(soft, np.float64) + shade + generator.normal(0, generator.uniform(1, 6), PAGE)
    grey = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return np.stack([grey] * 3, axis=-1), texts


def _line(generator: np.random.Generator, ink: int, paper: int) -> tuple[str, Image.Image]:
    """A line of words and numbers that fits the page, and its picture."""
    font = _font(str(generator.choice(FONTS)), int(generator.choice(SIZES)))
    text = ""
    while True:
        word = str(generator.choice(WORDS))
        if generator.random() < 0.15:
            word = str(generator.integers(10, 99999))
        longer = f"{text} {word}".strip()
        if font.getlength(longer) > PAGE[1] - 48:
            break
        text = longer
    box = font.getbbox(text)
    strip = Image.new("L", (int(box[2]) + 4, int(box[3]) + 4), paper)
    ImageDraw.Draw(strip).text((2, 2), text, fill=ink, font=font)
    return text, strip


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", size)
