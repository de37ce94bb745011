"""A stream of samples, of which the next is run while one is counted."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from ommatid.compiler.errors import CompileError
from ommatid.compiler.observe import Array, _ahead, count


def test_the_next_is_made_while_one_is_used() -> None:
    began = [threading.Event() for _ in range(3)]

    def samples() -> Iterator[dict[str, Array]]:
        for number, event in enumerate(began):
            event.set()
            yield {"x": np.full(1, number)}

    values = []
    for each in _ahead(samples()):
        values.append(int(each["x"][0]))
        following = values[-1] + 1
        assert following == 3 or began[following].wait(10)
    assert values == [0, 1, 2]


def test_what_is_wrong_with_a_sample_is_said() -> None:
    def samples() -> Iterator[dict[str, Array]]:
        yield {"x": np.ones(3, np.float32)}
        raise CompileError("the second sample cannot be read")

    with pytest.raises(CompileError, match="the second sample"):
        count(_ahead(samples()))


def test_an_infinite_tensor_ends_it() -> None:
    """Though there are always more samples."""
    with pytest.raises(CompileError, match="'x' becomes infinite"):
        count(_ahead(iter(lambda: {"x": np.full(3, np.inf, np.float32)}, None)))
