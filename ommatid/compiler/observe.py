"""Observation: a float model's tensors on a stream of samples, in onnxruntime."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import onnx

from ommatid.compiler.errors import CompileError
from ommatid.compiler.exact_session import exact_options
from ommatid.compiler.histogram import Histogram

Array = np.ndarray[Any, Any]
#: Types of weights that sessions are handed, and how large they are.
_WEIGHTS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "<f4",
    onnx.TensorProto.INT8: "i1",
    onnx.TensorProto.UINT8: "u1",
}
LARGE_BYTES = 4096
Feeds = Mapping[str, Array]


class Run(Protocol):
    """A network in onnxruntime: its tensors by name, or some of them, for feeds."""

    def __call__(self, feeds: Feeds, some: Collection[str] | None = None) -> dict[str, Array]: ...


@dataclass
class Observed:
    """A tensor over all samples: histogram; least, greatest and mean value of each channel (axis 1; float64).

    Tensors of fewer than three dimensions count as one channel. Where limits are all that is noted, the histogram is empty
    but for these, and sums are 0.
    """

    histogram: Histogram = field(default_factory=Histogram)
    channel_low: Array = field(default_factory=lambda: np.full(1, np.inf))
    channel_high: Array = field(default_factory=lambda: np.full(1, -np.inf))
    channel_sum: Array = field(default_factory=lambda: np.zeros(1))
    count: int = 0  # values of each channel

    def add(self, array: Array, whole: bool = True) -> None:
        """Count one sample's tensor, or, if not ``whole``, note its limits alone.

        Raises:
            OverflowError: it holds NaN or infinity.
        """
        rows = (
            np.moveaxis(array, 1, 0).reshape(array.shape[1], -1) if array.ndim > 2 else array.reshape(1, -1)
        )
        low, high = rows.min(axis=1), rows.max(axis=1)
        if not np.isfinite([low.min(), high.max()]).all():
            raise OverflowError
        self.channel_low, self.channel_high = (
            np.minimum(self.channel_low, low),
            np.maximum(self.channel_high, high),
        )
        self.histogram.hold(float(low.min()), float(high.max()))
        self.channel_sum = self.channel_sum + (self.histogram.add(rows) if whole else np.zeros(len(rows)))
        self.count += rows.shape[1]

    def divided(self, gain: Array, some: Histogram) -> Observed:
        """As it is with each channel divided by its gain; ``some`` are counts of part of these values."""
        low, high = self.channel_low / gain, self.channel_high / gain
        histogram = replace(some, low=float(low.min()), high=float(high.max()))
        return Observed(histogram, low, high, self.channel_sum / gain, self.count)

    @property
    def channel_mean(self) -> Array:
        """The mean value of each channel, if it was counted."""
        return self.channel_sum / max(self.count, 1)


def observe(
    model: onnx.ModelProto, names: Iterable[str], samples: Iterable[Feeds], run: Run | None = None,
    only_limits: Collection[str] = (),
) -> dict[str, Observed]:  # fmt: skip
    """What is known of the tensors ``names`` after one pass over the samples, by ``run`` if there is one; of
    ``only_limits`` these.

    Raises:
        CompileError: onnxruntime cannot run the model, or a tensor becomes infinite or NaN.
    """
    names = list(dict.fromkeys(names))
    run = run or runner(model, names)
    stream = (
        {n: a for n, a in (*feeds.items(), *run(feeds, names).items()) if n in names} for feeds in samples
    )
    return count(_ahead(stream), only_limits)


def _ahead(stream: Iterable[Mapping[str, Array]]) -> Iterator[Mapping[str, Array]]:
    """A stream of which the next is made while one is used: neither onnxruntime nor counting keeps all CPUs busy."""
    values = iter(stream)
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, values, None)
        while (value := coming.result()) is not None:
            coming = thread.submit(next, values, None)
            yield value


def count(stream: Iterable[Mapping[str, Array]], only_limits: Collection[str] = ()) -> dict[str, Observed]:
    """What is known of tensors by name after a stream of their values, one of each for a sample; of
    ``only_limits`` these.

    Raises:
        CompileError: a tensor becomes infinite or NaN.
    """
    found: dict[str, Observed] = {}

    def add(name: str, array: Array) -> None:
        try:
            found[name].add(array, name not in only_limits)
        except OverflowError:
            raise CompileError(
                f"tensor {name!r} becomes infinite on the calibration data", node=name
            ) from None

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # each tensor is counted by one of them
        for tensors in stream:
            real = {n: a for n, a in tensors.items() if np.issubdtype(a.dtype, np.floating) and a.size}
            found |= {name: Observed() for name in real if name not in found}
            list(threads.map(add, real.keys(), real.values()))
    return found


def runner(model: onnx.ModelProto, names: Iterable[str], optimize: bool = False) -> Run:
    """A function that gives those of the tensors ``names`` that the model makes, or some of them, for feeds.

    Raises:
        CompileError: onnxruntime cannot run the model.
    """
    import onnxruntime

    made = {o for node in model.graph.node for o in node.output}
    have = {o.name for o in model.graph.output}
    all_names = [n for n in names if n in made]
    more = onnx.ModelProto()
    more.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in all_names if n not in have)
    options = exact_options(model)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # tensors are counted in between
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with _without_weights(model) as weights:  # of messages one behind the other comes their sum
        data = model.SerializeToString() + more.SerializeToString()
    try:
        held = {name: onnxruntime.OrtValue.ortvalue_from_numpy(weight()) for name, weight in weights.items()}
        options.add_external_initializers([*held], [*held.values()])
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _cannot_run(error) from None
    session.held = held  # which it does not own

    def run(feeds: Feeds, some: Collection[str] | None = None) -> dict[str, Array]:
        wanted = all_names if some is None else [n for n in all_names if n in some]
        try:
            return dict(zip(wanted, session.run(wanted, dict(feeds)), strict=True)) if wanted else {}
        except Exception as error:
            raise _cannot_run(error) from None

    return run


@contextlib.contextmanager
def _without_weights(model: onnx.ModelProto) -> Iterator[dict[str, Callable[[], Array]]]:
    """Within, a model has no large weights but names of them alone: in messages they take longer than a sample does.

    What nodes of the graph itself do not read stays: onnxruntime drops it before it looks for its weights.
    """
    read, found = {name for node in model.graph.node for name in node.input}, []
    try:
        for tensor in model.graph.initializer:
            if tensor.name in read and tensor.data_type in _WEIGHTS and len(tensor.raw_data) > LARGE_BYTES:
                read.remove(tensor.name)  # another of this name is an error
                found.append((tensor, tensor.raw_data))
                tensor.ClearField("raw_data")
                tensor.data_location = onnx.TensorProto.EXTERNAL
                tensor.external_data.add(key="location", value="memory")
        yield {tensor.name: functools.partial(_array, tensor, raw) for tensor, raw in found}
    finally:
        for tensor, raw in found:
            tensor.raw_data = raw
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")


def _array(tensor: onnx.TensorProto, raw: bytes) -> Array:
    return np.frombuffer(raw, _WEIGHTS[tensor.data_type]).reshape(tuple(tensor.dims))


def when_needed(model: onnx.ModelProto, names: Iterable[str]) -> Run:
    """As ``runner``, but the session begins with the first run."""
    made = functools.cache(lambda: runner(model, names))
    return lambda feeds, some=None: made()(feeds, some)


def _cannot_run(error: Exception) -> CompileError:
    return CompileError(
        f"onnxruntime cannot run the model for calibration: {error}", "check that it runs in onnxruntime"
    )
