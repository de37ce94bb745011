"""The twelve architectures by name."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from tests.networks import attention, convolutional, dense

ARCHITECTURES: dict[str, Callable[[], onnx.ModelProto]] = {
    "unet": dense.unet,
    "yolo": convolutional.yolo,
    "convnext": convolutional.convnext,
    "swin": attention.swin,
    "efficientnet": convolutional.efficientnet,
    "repvgg": convolutional.repvgg,
    "ghostnet": convolutional.ghostnet,
    "aspp": dense.aspp,
    "super_resolution": dense.super_resolution,
    "keypoints": dense.keypoints,
    "vit": attention.vit,
    "mixer": attention.mixer,
}
