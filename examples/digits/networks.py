"""Three small networks for scikit-learn's scanned digits: residual, depthwise, transformer."""

import torch
from torch import Tensor, nn

CLASSES, SIZE = 10, 8  # an image is [1, SIZE, SIZE], its values 0 to 1


def normed(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps the size (divided by the stride), and batch normalisation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Two convolutions and a shortcut (He et al., 2015)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(normed(inputs, outputs, 3, stride), nn.ReLU(), normed(outputs, outputs))
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else normed(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        return torch.relu(self.body(x) + self.shortcut(x))


class Gate(nn.Module):
    """Squeeze and excite (Hu et al., 2017): each channel is scaled by what all channels are on the average."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = channels // 4
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, channels, 1),
            nn.Hardsigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] to the same."""
        return x * self.gate(x)


class Inverted(nn.Module):
    """Expand, depthwise, gate, project (Howard et al., 2019)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        wide = 3 * inputs
        self.body = nn.Sequential(
            normed(inputs, wide, 1), nn.Hardswish(), normed(wide, wide, 3, stride, wide), nn.Hardswish(), Gate(wide),
            normed(wide, outputs, 1),
        )  # fmt: skip
        self.same = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        return x + self.body(x) if self.same else self.body(x)


class Transformer(nn.Module):
    """A small vision transformer (Dosovitskiy et al., 2020): a token for each 2 x 2 pixels."""

    def __init__(self, width: int = 48, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.positions = nn.Parameter(0.02 * torch.randn(1, (SIZE // 2) ** 2, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 1, SIZE, SIZE] to logits [N, CLASSES]."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.encoder(tokens).mean(1))


def classifier(*body: nn.Module, channels: int) -> nn.Sequential:
    """A body, the average of its map, and a linear layer."""
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


def residual() -> nn.Module:
    """Four residual blocks."""
    stem = nn.Sequential(normed(1, 16), nn.ReLU())
    return classifier(
        stem, Residual(16, 16), Residual(16, 32, 2), Residual(32, 32), Residual(32, 32), channels=32
    )


def depthwise() -> nn.Module:
    """Four inverted blocks with h-swish and squeeze-and-excite."""
    stem = nn.Sequential(normed(1, 16), nn.Hardswish())
    last = nn.Sequential(normed(32, 64, 1), nn.Hardswish())
    return classifier(
        stem, Inverted(16, 16), Inverted(16, 32, 2), Inverted(32, 32), Inverted(32, 32), last, channels=64
    )


NETWORKS = {"residual": residual, "depthwise": depthwise, "transformer": Transformer}
