"""Networks of layers made by hand, for tests of the compiler's back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ommatid.compiler.layers import Binary, Conv, Layer, Map, Network, Operation, Stage, Step, Table, Window
from ommatid.isa.program import Partition, Quantization, Tensor

Shape = tuple[int, ...]
Q = (0, "int8")


class Net:
    """Collects layers; ``add`` gives the output's name. ``inputs`` are what the host writes."""

    def __init__(self, **inputs: Shape) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.stages: list[Stage] = []
        self.layers: list[Layer] = []
        self.fed = set(inputs)
        for name, shape in inputs.items():
            self.declare(name, shape)

    def declare(self, name: str, shape: Shape, scale: float = 1.0) -> None:
        quantization = Quantization(scale, 0, "int8")
        self.tensors[name] = Tensor(name, shape, quantization, shape, tuple(range(len(shape))))

    def add(
        self, operation: Operation, inputs: Sequence[str], output: str, shape: Shape, steps: Sequence[Step] = (),
        macs: int = 0,
    ) -> str:  # fmt: skip
        """Append a layer that is called like its output."""
        self.declare(output, shape)
        op = type(operation).__name__
        self.layers.append(
            Layer(output, op, (f"node {output}",), operation, tuple(inputs), output, tuple(steps), macs)
        )
        return output

    def map(self, source: str, output: str, *steps: Step) -> str:
        """An element-wise layer."""
        return self.add(Map(), [source], output, self.tensors[source].shape, steps)

    def conv(self, source: str, output: str, channels: int, kernel: int = 1, groups: int = 1) -> str:
        """A convolution of stride 1 that keeps rows and columns."""
        n, h, w, c = self.tensors[source].shape
        weights = np.zeros((channels, kernel, kernel, c // groups), np.int8)
        around = (kernel - 1) // 2
        operation = Conv(
            weights, np.zeros(channels, np.int32), np.ones(channels, np.float32),
            Window((kernel, kernel), pads=(around,) * 4), groups, Q,
        )  # fmt: skip
        macs = n * h * w * weights.size
        return self.add(operation, [source], output, (n, h, w, channels), macs=macs)

    def cpu(self, source: str, output: str) -> str:
        """A partition of the CPU between what was added and what follows."""
        self.stages += [Stage(tuple(self.layers)), Stage(cpu=Partition("cpu", (source,), (output,)))]
        self.layers = []
        self.declare(output, self.tensors[source].shape)
        self.fed.add(output)
        return output

    def network(self, *kept: str) -> Network:
        """The network; ``kept`` are its outputs and what CPU partitions read."""
        stages = tuple(
            stage for stage in (*self.stages, Stage(tuple(self.layers))) if stage.layers or stage.cpu
        )
        return Network(self.tensors, stages, (), (), frozenset(self.fed), frozenset(kept), {})


def table(seed: int = 0) -> Table:
    """A table of random bytes."""
    return Table(np.random.default_rng(seed).integers(0, 256, 256).astype(np.uint8))


def binary(kind: str, other: str, a_factor: float = 0.5, b_factor: float = 0.25) -> Binary:
    """A step that adds or multiplies."""
    return Binary(kind, other, (1, "int8"), (2, "uint8"), (3, "int8"), a_factor, b_factor, 0.125)
