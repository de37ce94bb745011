"""Storage: random networks of views, slices and concatenations run on bytes, each tensor through its spot alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

from ommatid.compiler.layers import Concat, Network, Slice, Transpose, View
from ommatid.compiler.storage import NARROW_STORE_BYTES, Spot, Storage, dense_strides, operands, plan_storage
from tests.compiler.nets import Net, binary, table

Array = np.ndarray[Any, Any]
SHAPES = [(1, 2, 3, 4), (1, 3, 2, 4), (1, 1, 6, 4), (1, 4, 6), (4, 6)]


@st.composite
def networks(draw: st.DrawFn) -> Network:
    net = Net(x=SHAPES[0], y=SHAPES[0])
    for k in range(draw(st.integers(1, 7))):
        name, source = f"t{k}", draw(st.sampled_from(sorted(net.tensors)))
        shape = net.tensors[source].shape
        kind = draw(st.sampled_from(["map", "view", "slice", "concat", "concat", "transpose"]))
        if kind == "map":
            net.map(source, name, table())
        elif kind == "view":
            flat = math.prod(shape)
            target = draw(st.sampled_from([s for s in SHAPES if math.prod(s) == flat] + [(1, flat)]))
            net.add(View(), [source], name, target)
        elif kind == "slice":
            starts = [draw(st.integers(0, dim - 1)) for dim in shape]
            steps = [draw(st.integers(1, 2)) for _ in shape]
            size = [len(range(a, dim, b)) for a, b, dim in zip(starts, steps, shape, strict=True)]
            net.add(Slice(tuple(starts), tuple(steps)), [source], name, tuple(size))
        elif kind == "concat":
            axis = draw(st.integers(0, len(shape) - 1))
            alike = sorted(n for n, t in net.tensors.items() if t.shape == shape)
            parts = [source, *draw(st.lists(st.sampled_from(alike), min_size=1, max_size=2))]
            tables = tuple(draw(st.sampled_from([None, None, table().values])) for _ in parts)
            whole = tuple(dim * (len(parts) if d == axis else 1) for d, dim in enumerate(shape))
            net.add(Concat(axis, tables), parts, name, whole)
        else:
            perm = draw(st.permutations(range(len(shape))))
            net.add(Transpose(tuple(perm)), [source], name, tuple(shape[d] for d in perm))
    return net.network(*net.tensors)


def computed(network: Network) -> dict[str, Array]:
    """Every tensor, by plain NumPy."""
    rng = np.random.default_rng(1)
    values = {
        name: rng.integers(0, 256, network.tensors[name].shape).astype(np.uint8)
        for name in sorted(network.fed)
    }
    for layer in network.stages[0].layers:
        inputs, operation = [values[name] for name in layer.inputs], layer.operation
        if isinstance(operation, Slice):
            cut = zip(operation.starts, operation.steps, strict=True)
            result = inputs[0][tuple(slice(a, None, b) for a, b in cut)]
        elif isinstance(operation, Concat):
            parts = [x if t is None else t[x] for x, t in zip(inputs, operation.tables, strict=True)]
            result = np.concatenate(parts, operation.axis)
        elif isinstance(operation, Transpose):
            result = inputs[0].transpose(operation.perm)
        elif isinstance(operation, View):
            result = inputs[0].reshape(network.tensors[layer.output].shape)
        else:
            result = table().values[inputs[0]]
        values[layer.output] = np.ascontiguousarray(result)
    return values


class Bytes:
    """The buffers; a tensor is seen through its spot."""

    def __init__(self, network: Network, storage: Storage) -> None:
        self.network, self.storage = network, storage
        self.buffers = {name: np.zeros(size, np.uint8) for name, size in storage.buffer_bytes.items()}

    def seen(self, name: str) -> Array:
        spot, shape = self.storage.spots[name], self.network.tensors[name].shape
        reach = spot.offset + sum((dim - 1) * s for dim, s in zip(shape, spot.strides, strict=True))
        assert spot.offset >= 0 and reach < len(self.buffers[spot.buffer])
        return as_strided(self.buffers[spot.buffer][spot.offset :], shape, spot.strides)


@settings(deadline=None, max_examples=80)
@given(networks())
def test_every_tensor_is_where_its_spot_says(network: Network) -> None:
    values, storage = computed(network), plan_storage(network)
    memory = Bytes(network, storage)
    for name in network.fed:
        memory.seen(name)[:] = values[name]
    for layer in network.stages[0].layers:
        if layer.name not in storage.free_layers:
            memory.seen(layer.output)[:] = values[layer.output]
        for name in (*operands(layer), layer.output):
            assert (memory.seen(name) == values[name]).all(), name


def test_dense_strides() -> None:
    assert dense_strides((2, 3, 4, 5)) == (60, 20, 5, 1)
    assert dense_strides((7,)) == (1,) and dense_strides(()) == ()


def test_operands_are_inputs_and_those_of_steps() -> None:
    net = Net(x=(1, 4), y=(1, 4))
    net.map("x", "z", table(), binary("add", "y"))
    assert operands(net.layers[0]) == ["x", "y"]


def test_a_chain_of_concats_is_one_buffer() -> None:
    net = Net(x=(1, 2, 2, 4))
    a = net.map("x", "a", table())
    b = net.map("x", "b", table())
    c = net.map("x", "c", table())
    ab = net.add(Concat(3, (None, None)), [a, b], "ab", (1, 2, 2, 8))
    net.add(Concat(3, (None, None)), [ab, c], "abc", (1, 2, 2, 12))
    storage = plan_storage(net.network("abc"))
    assert storage.free_layers == {"ab", "abc"}
    strides = (48, 24, 12, 1)
    spots = {name: storage.spots[name] for name in ("a", "b", "c", "ab")}
    assert spots == {name: Spot("abc", at, strides) for name, at in (("a", 0), ("b", 4), ("c", 8), ("ab", 0))}


def test_a_part_used_twice_or_with_a_table_is_copied() -> None:
    net = Net(x=(1, 2, 2, 4))
    a = net.map("x", "a", table())
    net.add(Concat(3, (None, None)), [a, a], "aa", (1, 2, 2, 8))
    net.add(Concat(3, (None, table().values)), [a, net.map("x", "b", table())], "ab", (1, 2, 2, 8))
    storage = plan_storage(net.network("aa", "ab"))
    assert not storage.free_layers
    assert storage.spots["b"].buffer == "b" and storage.spots["a"].buffer == "ab"


def test_a_large_concat_of_channels_is_all_in_place_or_not_at_all() -> None:
    side = math.isqrt(NARROW_STORE_BYTES // 16) + 1
    for tables, place in (((None, None), "ab"), ((None, table().values), "a")):
        net = Net(x=(1, side, side, 8))
        parts = [net.map("x", name, table()) for name in "ab"]
        net.add(Concat(3, tables), parts, "ab", (1, side, side, 16))
        assert plan_storage(net.network("ab")).spots["a"].buffer == place
