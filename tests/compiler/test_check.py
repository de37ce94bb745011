"""Verdicts: every node has one, with the rule that failed and a hint that can be followed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from ommatid.compiler.front import FrontOptions, check_nodes
from ommatid.compiler.model import import_model
from tests import networks
from tests.compiler.canonical import nodes_of
from tests.networks.architectures import ARCHITECTURES


def named(hint: str) -> list[str]:
    """The tensors at which a hint says to cut."""
    return hint.rpartition("--outputs ")[2].split(",") if "--outputs" in hint else []


@pytest.mark.parametrize("name", ["repvgg", "super_resolution", "mixer"])
def test_every_node_has_a_verdict(name: str) -> None:
    made = ARCHITECTURES[name]()
    for row in check_nodes(made, FrontOptions())[0]:
        assert row.placement in ("npu", "cpu") and row.rule and (row.hint or row.placement == "npu")
        for tensor in named(row.hint):  # is one of the model as it was given
            import_model(made, outputs=[tensor])


def test_a_hint_says_which_rewrite_nearly_fired() -> None:
    """A normalisation with an epsilon for each channel is none that an operator computes."""
    text = """c = Conv(x, w)
    m = ReduceMean <axes=[2]> (c)
    d = Sub(c, m)
    q = Mul(d, d)
    v = ReduceMean <axes=[2]> (q)
    e = Add(v, epsilons)
    s = Sqrt(e)
    n = Div(d, s)
    y = Conv(n, w)"""
    constants = {"w": np.ones((4, 4, 1, 1), np.float32), "epsilons": np.full((4, 1, 1), 1e-5, np.float32)}
    made: onnx.ModelProto = networks.model(nodes_of(text), {"x": [1, 4, 6, 6]}, {"y": None}, constants)
    row = next(row for row in check_nodes(made, FrontOptions(activations="int16"))[0] if row.name == "n_n")
    assert row.placement == "cpu" and row.op == "Div" and row.rule
    assert row.hint.startswith("layer_norm did not fire: constant_epsilon has 4 elements, not one; ")
    assert named(row.hint) == ["d", "s"]
