"""Convolution weights in the order in which the array takes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.target import Target


def pack_weights(weights: np.ndarray[Any, Any], row_mode: bool, target: Target) -> np.ndarray[Any, Any]:
    """int8 or int16 weights [cout, kh, kw, cin] as tiles [cout group][step][k / 4][channel][k % 4] (uint8, flat).

    A step is K positions along the kernel row (``row_mode``: over kw * cin, else over the cin of one tap); rows
    and channels that do not fill a tile are padded with zeros.
    """
    cout, kh, kw, cin = weights.shape
    k, lanes = target.mx_k_bytes, target.mx_channels
    rows, length = (kh, kw * cin) if row_mode else (kh * kw, cin)
    groups, steps = -(-cout // lanes), -(-length // k)
    padded = np.zeros((groups * lanes, rows, steps * k), weights.dtype)
    padded[:cout, :, :length] = weights.reshape(cout, rows, length)
    tiles = padded.reshape(groups, lanes, rows * steps, k // 4, 4)
    return np.ascontiguousarray(tiles.transpose(0, 2, 3, 1, 4)).view(np.uint8).ravel()
