"""Observation: a float model's tensors on a stream of samples, in onnxruntime."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, Protocol

import numpy as np
import onnx

from ommatid.compiler.errors import CompileError
from ommatid.compiler.exact_session import exact_options
from ommatid.compiler.form import Form, unsigned
from ommatid.compiler.histogram import Histogram

Array = np.ndarray[Any, Any]
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
    form: Form, names: Iterable[str], samples: Iterable[Feeds], run: Run | None = None,
    only_limits: Collection[str] = (), each: Callable[[Mapping[str, Array]], None] | None = None,
) -> dict[str, Observed]:  # fmt: skip
    """What is known of the tensors ``names`` after one pass over the samples, by ``run`` if there is one; of those in
    ``only_limits`` their limits. ``each`` is shown the tensors of one sample after the other, in other threads.

    Two samples are in work at a time, since neither onnxruntime nor counting keeps all CPUs busy.

    Raises:
        CompileError: onnxruntime cannot run the model, or a tensor becomes infinite or NaN.
    """
    found: dict[str, Observed] = {}
    names = list(dict.fromkeys(names))
    run = run or runner(form, names)
    work: deque[Future[None]] = deque()

    def look(feeds: Feeds, before: Future[None] | None) -> None:
        tensors = {**feeds, **run(feeds)}
        if before is not None:
            before.result()
        if each is not None:
            each(tensors)
        _add(found, {n: tensors[n] for n in names if n in tensors}, only_limits, counters)

    with ThreadPoolExecutor(os.cpu_count()) as counters, ThreadPoolExecutor(2) as runs:
        for feeds in samples:
            if len(work) == 2:
                work.popleft().result()
            work.append(runs.submit(look, feeds, work[-1] if work else None))
        for future in work:
            future.result()
    return found


def count(stream: Iterable[Mapping[str, Array]]) -> dict[str, Observed]:
    """What is known of tensors by name after a stream of their values, one of each for a sample.

    Raises:
        CompileError: a tensor becomes infinite or NaN.
    """
    found: dict[str, Observed] = {}
    with ThreadPoolExecutor(os.cpu_count()) as counters:
        for tensors in stream:
            _add(found, tensors, (), counters)
    return found


def _add(
    found: dict[str, Observed], tensors: Mapping[str, Array], only_limits: Collection[str], counters: Executor
) -> None:
    """Count one sample's tensors, each in one of the threads."""
    real = {n: a for n, a in tensors.items() if np.issubdtype(a.dtype, np.floating) and a.size}
    for name in real:
        found.setdefault(name, Observed())

    def add(name: str) -> None:
        try:
            found[name].add(real[name], name not in only_limits)
        except OverflowError:
            raise CompileError(
                f"tensor {name!r} becomes infinite on the calibration data", node=name
            ) from None

    list(counters.map(add, real))


def runner(form: Form, names: Iterable[str], optimize: bool = False) -> Run:
    """A function that gives those of the tensors ``names`` that the model makes, or some of them, for feeds.

    Raises:
        CompileError: onnxruntime cannot run the model.
    """
    import onnxruntime

    form = unsigned(form) if optimize else form
    made = {o for node in form.proto.graph.node for o in node.output}
    have = {o.name for o in form.proto.graph.output}
    all_names = [n for n in names if n in made]
    more = onnx.ModelProto()
    more.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in all_names if n not in have)
    options = exact_options(form.proto)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # tensors are counted in between
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = form.proto.SerializeToString() + more.SerializeToString()  # one behind the other: their sum
    try:
        held = {
            n: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(w))
            for n, w in form.weights.items()
        }
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


def when_needed(form: Form, names: Iterable[str]) -> Run:
    """As ``runner``, but the session begins with the first run."""
    lock, made = Lock(), functools.cache(lambda: runner(form, names))

    def run(feeds: Feeds, some: Collection[str] | None = None) -> dict[str, Array]:
        with lock:  # of several threads one makes it
            session = made()
        return session(feeds, some)

    return run


def _cannot_run(error: Exception) -> CompileError:
    return CompileError(
        f"onnxruntime cannot run the model for calibration: {error}", "check that it runs in onnxruntime"
    )
