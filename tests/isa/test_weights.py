"""Packed weights lie in the order that the instruction table declares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ommatid.isa.target import load_target
from ommatid.isa.weights import pack_weights


@pytest.mark.parametrize("row_mode", [False, True])
@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_order(row_mode: bool, dtype: type[np.signedinteger[Any]]) -> None:
    limits = np.iinfo(dtype)
    weights = np.random.default_rng(0).integers(limits.min, limits.max, (11, 2, 3, 5), dtype)
    tiles = pack_weights(weights, row_mode, load_target("ommatid-256")).view(dtype)  # K = 8, 8 channels
    rows = weights.reshape(11, 2, 15) if row_mode else weights.reshape(11, 6, 5)
    tiles = tiles.reshape(2, rows.shape[1], -(-rows.shape[2] // 8), 2, 8, 4)
    for o, row, j in np.ndindex(rows.shape):
        assert tiles[o // 8, row, j // 8, j % 8 // 4, o % 8, j % 4] == rows[o, row, j]
    assert np.count_nonzero(tiles) == np.count_nonzero(weights)  # the rest is padding: zeros
