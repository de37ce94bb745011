"""Scikit-learn's scanned digits (1,797 images of 8 x 8 pixels), in two halves that never mix."""

import numpy as np
from sklearn.datasets import load_digits

Array = np.ndarray


def halves() -> tuple[Array, Array, Array]:
    """Images float32 [1797, 1, 8, 8] of 0 to 1, labels int64 [1797], and an order of them."""
    data = load_digits()
    images = (data.images / 16).astype(np.float32)[:, None]
    return images, data.target.astype(np.int64), np.random.default_rng(0).permutation(len(images))


def training() -> tuple[Array, Array]:
    """Images and labels that the networks learnt from."""
    images, labels, order = halves()
    chosen = order[: len(order) // 2]
    return images[chosen], labels[chosen]


def held_out(seed: int, calibration: int = 100) -> tuple[Array, tuple[Array, Array]]:
    """What the networks never saw, split by a seed: images to calibrate with; images and labels to test with."""
    images, labels, order = halves()
    chosen = np.random.default_rng(seed).permutation(order[len(order) // 2 :])
    return images[chosen[:calibration]], (images[chosen[calibration:]], labels[chosen[calibration:]])
