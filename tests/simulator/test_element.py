"""``map``'s add beside onnxruntime's QLinearAdd, and a map in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.simulator.builder import Scene

Array = np.ndarray[Any, Any]


def test_map_may_write_over_its_source() -> None:
    scene = Scene(1)
    src, index = scene.image("src", 3, 4, 17)
    table = scene.rng.permutation(256).astype(np.uint8)
    dst = {key.replace("src", "dst"): value for key, value in src.items()}
    machine = scene.run("map", h=3, w=4, c=17, table1_on=1, table1=scene.put(table), **src, **dst)
    np.testing.assert_array_equal(machine.sram[0][index], table[scene.sram[index]])


def qlinear_add(a: Array, b: Array, scales: Any, zeros: Any) -> Array:
    """onnxruntime's own QLinearAdd."""
    kind = helper.np_dtype_to_tensor_dtype(a.dtype)
    names = ["as", "az", "bs", "bz", "cs", "cz"]
    constants = [v for pair in zip(scales, np.array(zeros).astype(a.dtype), strict=True) for v in pair]
    initializers = [
        helper.make_tensor(name, TensorProto.FLOAT if i % 2 == 0 else kind, (), [value])
        for i, (name, value) in enumerate(zip(names, constants, strict=True))
    ]
    inputs = ["a", "as", "az", "b", "bs", "bz", "cs", "cz"]
    node = helper.make_node("QLinearAdd", inputs, ["c"], domain="com.microsoft")
    info = [helper.make_tensor_value_info(n, kind, a.shape) for n in "abc"]
    graph = helper.make_graph([node], "g", info[:2], info[2:], initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"a": a, "b": b})[0])


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.sampled_from(["uint8", "int8"]), st.integers(0, 2**32 - 1))
def test_add_is_within_a_step_of_onnxruntime(dtype: str, seed: int) -> None:
    scene, kind = Scene(seed), int(dtype == "int8")
    (a, at_a), (b, at_b), (dst, at_dst) = (scene.image(name, 5, 7, 33) for name in ("src", "operand", "dst"))
    scales = scene.rng.uniform(0.01, 0.1, 3).astype(np.float32)
    zeros = scene.rng.integers(-128 * kind, 256 - 128 * kind, 3)
    ra, rb = scales[:2] / scales[2]
    inner = np.float32(float(ra) * int(zeros[0]) + float(np.float32(rb * np.float32(zeros[1]))))
    machine = scene.run(
        "map", h=5, w=7, c=33, binary=1, operand_c=1, a_type=kind, b_type=kind, r_type=kind, a_factor=ra, b_factor=rb,
        addend=np.float32(zeros[2]) - inner, **a, **b, **dst,
    )  # fmt: skip
    got = machine.sram[0][at_dst].view(dtype).astype(int)
    want = qlinear_add(scene.sram[at_a].view(dtype), scene.sram[at_b].view(dtype), scales, zeros)
    assert abs(got - want).max() <= 1
