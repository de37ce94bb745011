"""A stream of samples: two are in work at a time, and counted one after the other in their order."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from ommatid.compiler.errors import CompileError
from ommatid.compiler.form import form_of
from ommatid.compiler.model import import_model
from ommatid.compiler.observe import Array, Feeds, observe, when_needed
from tests import networks

FORM = form_of(import_model(networks.convolution()))


def samples(count: int) -> Iterator[Feeds]:
    for number in range(count):
        yield {"x": np.full(3, number, np.float32)}


def test_two_are_in_work_and_are_shown_in_order() -> None:
    """The first is done only when the second was: the second began meanwhile, and waits to be shown. Never are there
    three."""
    second = threading.Event()
    shown: list[int] = []
    running: list[int] = []

    def run(feeds: Feeds, some: object = None) -> dict[str, Array]:
        number = int(feeds["x"][0])
        running.append(number)
        assert number < 2 or number - 2 in shown
        if number == 1:
            second.set()
        assert number != 0 or second.wait(10)
        return {"y": feeds["x"] * 2}

    def drawn() -> Iterator[Feeds]:
        for number, feeds in enumerate(samples(6)):
            assert number - len(shown) <= 2
            yield feeds

    found = observe(FORM, ["x", "y"], drawn(), run, (), lambda tensors: shown.append(int(tensors["x"][0])))
    assert shown == [*range(6)] and sorted(running) == shown
    assert found["y"].count == 18 and found["y"].histogram.high == 10 and found["x"].histogram.high == 5


def test_what_is_wrong_with_a_sample_is_said() -> None:
    def wrong() -> Iterator[Feeds]:
        yield {"x": np.ones(3, np.float32)}
        raise CompileError("the second sample cannot be read")

    with pytest.raises(CompileError, match="the second sample"):
        observe(FORM, ["x"], wrong(), lambda feeds, some=None: {})


def test_an_infinite_tensor_ends_it() -> None:
    """Though there are always more samples."""
    endless = iter(lambda: {"x": np.full(3, np.inf, np.float32)}, None)
    with pytest.raises(CompileError, match="'x' becomes infinite"):
        observe(FORM, ["x"], endless, lambda feeds, some=None: {})


def test_the_last_sample_is_looked_at() -> None:
    last = iter([*samples(3), {"x": np.full(3, np.inf, np.float32)}])
    with pytest.raises(CompileError, match="'x' becomes infinite"):
        observe(FORM, ["x"], last, lambda feeds, some=None: {})


def test_of_several_threads_one_makes_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def slow(form: object, names: object) -> object:
        made.append(1)
        threading.Event().wait(0.1)
        return lambda feeds, some: dict(feeds)

    monkeypatch.setattr("ommatid.compiler.observe.runner", slow)
    run = when_needed(FORM, ["y"])
    threads = [threading.Thread(target=run, args=({},)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
