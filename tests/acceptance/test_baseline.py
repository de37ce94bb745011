"""Our own workloads against tests/baseline.toml: a commit that makes one slower or different fails here.

`make baseline` writes the file anew: read its difference as part of your change. Ranges are powers of two, so that
codes do not depend on how a machine computes in float.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from ommatid.compiler.canonicalize import canonicalize
from ommatid.compiler.model import import_model, to_proto
from ommatid.compiler.qdq import activations
from ommatid.compiler.recipe import Recipe, TensorRecipe
from ommatid.profiler.compare import make_reference
from tests.networks import attention, convolutional, dense
from tests.profiler.regressions import chain, residual
from tests.workloads import light

WORKLOADS: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "chain": (chain, "ommatid-256"),
    "residual": (residual, "ommatid-256"),
    "efficientnet": (convolutional.efficientnet, "ommatid-1k"),
    "keypoints": (dense.keypoints, "ommatid-1k"),
    "vit": (attention.vit, "ommatid-1k"),
    "squeezenet": (lambda: light("squeezenet"), "ommatid-1k"),
}


def fixed_ranges(model: onnx.ModelProto) -> Recipe:
    """A range for every tensor: what a sample used, up to a power of two."""
    canonical = canonicalize(import_model(model))
    rng = np.random.default_rng(0)
    feeds = {
        v.name or "": rng.standard_normal(v.shape.numpy()).astype(np.float32) for v in canonical.graph.inputs
    }
    values = feeds | make_reference(to_proto(canonical), activations(canonical)).run(feeds)
    high = {name: float(2.0 ** np.ceil(np.log2(np.abs(a).max() + 1e-6))) for name, a in values.items()}
    low = {name: -high[name] if a.min() < 0 else 0.0 for name, a in values.items()}
    return Recipe(tensors={name: TensorRecipe(low=low[name], high=high[name]) for name in values})


@pytest.mark.parametrize("name", WORKLOADS)
def test_as_in_the_baseline(npu: Any, name: str) -> None:
    make, target = WORKLOADS[name]
    model = make()
    npu(model, name, target=target, method="minmax", recipe=fixed_ranges(model)).assert_baseline()
