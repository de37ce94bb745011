"""Trials that are remembered, or made by other processes, change nothing but the time that a search takes."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from ommatid.compiler.aids import Aids
from ommatid.compiler.assemble import excerpt
from ommatid.compiler.cascade import Cascade, reloaded_bytes
from ommatid.compiler.cascade_search import (
    AHEAD,
    BETWEEN,
    FIRST_STRIPES,
    LEAST_GAIN,
    WORTH_GROWING,
    _grow,
    _scattered,
    choose_cascades,
    neighbours,
)
from ommatid.compiler.helpers import Helpers
from ommatid.compiler.layers import Conv, Network, Resize, Stage
from ommatid.compiler.outline import outline
from ommatid.compiler.schedule import make_plan
from ommatid.compiler.storage import plan_storage
from ommatid.compiler.tile import DRAM_WEIGHT
from ommatid.compiler.trial import HOPELESS, Trials, faster, find_ahead, priced
from ommatid.isa.target import Target
from ommatid.runtime import trials
from ommatid.runtime.compile import finish_cycles
from ommatid.runtime.trials import StoredTrials
from tests.compiler.nets import Net, binary
from tests.compiler.test_cascade import SMALL, filled, networks, three_layers

TARGET = replace(SMALL, sram_kib=128)
BUDGET = (30,)


def chosen(network: Network, aids: Aids | None = None, target: Target = TARGET) -> tuple[Cascade, ...]:
    return choose_cascades(network, target, finish_cycles, BUDGET, aids).cascades


def trials_of(network: Network, target: Target) -> Trials:
    """The state at the beginning of a search."""
    return Trials(network, target, finish_cycles, priced(network, target, finish_cycles))


#: Of all networks that hypothesis draws.
SHARED: dict[str, float] = {}


@given(networks())
@settings(max_examples=10, deadline=None)
def test_what_other_networks_left_changes_nothing(network: Network) -> None:
    """Trials of layers that only look alike would cost something else."""
    alone = choose_cascades(network, SMALL, finish_cycles, (20,))
    assert choose_cascades(network, SMALL, finish_cycles, (20,), Aids(SHARED)).cascades == alone.cascades


def trained_anew(network: Network) -> Network:
    """Other weights and scales in the same layers, under other names."""
    copy: Network = pickle.loads(pickle.dumps(network))
    for layer in copy.layers:
        if isinstance(layer.operation, Conv):
            layer.operation.weights[:] = np.roll(layer.operation.weights, 1)
            layer.operation.multipliers[:] *= np.float32(0.9)
    return copy


def test_again_nothing_is_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for the same network, nor for one trained anew."""
    network, remembered = three_layers(kernel=1), dict[str, float]()
    first = chosen(network, Aids(remembered))
    assert first and len(remembered) > 5
    monkeypatch.setattr(Trials, "_lowered", lambda *_: pytest.fail("a trial was made again"))
    for other in (network, trained_anew(network)):
        assert chosen(other, Aids(remembered)) == first


def test_a_changed_network_tries_what_changed() -> None:
    """A layer that is added behind those of the first costs only the trials that it is in."""

    def chain(layers: int) -> Network:
        net = Net(x=(1, 61, 61, 16))
        for i in range(layers):
            net.conv(f"a{i - 1}" if i else "x", f"a{i}", 64, kernel=1)
        filled(net)
        return net.network(f"a{layers - 1}")

    def lowered(network: Network, remembered: dict[str, float]) -> int:
        before = len(remembered)
        chosen(network, Aids(remembered))
        return len(remembered) - before

    remembered: dict[str, float] = {}
    lowered(chain(3), remembered)
    assert 0 < lowered(chain(4), remembered) < lowered(chain(4), {})


def test_outlines_differ_where_cycles_may() -> None:
    network = three_layers()
    storage, part = plan_storage(network), range(3)

    def of(network: Network, target: Target, *cascades: Cascade) -> str:
        return outline(make_plan(network, target, storage, cascades), part)

    plain = of(network, TARGET)
    plan = make_plan(network, TARGET, storage)
    resident, a = min(plan.resident), storage.spots["a"]
    apart = replace(storage, spots={**storage.spots, "a": replace(a, strides=(*a.strides[:2], 80, 1))})
    assert plain == of(trained_anew(network), TARGET)
    others = [
        of(network, replace(TARGET, sram_kib=129)), of(network, TARGET, Cascade(0, 2, 8)), of(network, TARGET, Cascade(0, 1, 8)),
        of(network, TARGET, Cascade(0, 2, 4)), of(three_layers(kernel=1), TARGET), of(three_layers(side=60), TARGET),
        outline(make_plan(network, TARGET, storage, never=frozenset({resident})), part),
        outline(replace(plan, storage=apart), part),
    ]  # fmt: skip
    assert len({plain, *others}) == 1 + len(others)


def test_what_stays_makes_room_for_a_cascade(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial moves a buffer that is read behind the cascade to DRAM, as the schedule does."""
    net = Net(x=(1, 40, 40, 16))
    net.conv("x", "r", 16)
    net.conv("r", "a", 96, kernel=3)
    net.conv("a", "b", 16, kernel=3)
    net.map("b", "y", binary("add", "r"))
    filled(net)
    network, target = net.network("y"), replace(SMALL, sram_kib=96)
    way = (1, 2, (Cascade(1, 2, 2),))

    cost = trials_of(network, target).find(*way)[1]
    monkeypatch.setattr("ommatid.compiler.trial.stays_around", lambda *_: [])
    assert trials_of(network, target).find(*way)[1] == -1 and cost > 0


def test_an_excerpt_has_the_instructions_of_its_layers() -> None:
    """Tokens are those that they need among themselves; each partition that they reach ends."""
    net = Net(x=(1, 61, 61, 16))
    net.conv("x", "a", 64, kernel=3)
    net.conv("a", "b", 16)
    net.cpu("b", "c")
    net.conv("c", "d", 32, kernel=3)
    net.map("d", "y", binary("add", "d"))
    filled(net)
    # a does not stay in SRAM, whose tiles suffice to load it before it is stored: it takes a token
    target = replace(SMALL, sram_kib=320)
    program = priced(net.network("b", "y"), target, finish_cycles).program
    whole = excerpt(program, range(4))
    assert whole.instructions.tobytes() == program.instructions.tobytes()
    for first in range(4):
        for stop in range(first + 1, 5):
            part = excerpt(program, range(first, stop))
            mine = [i for i, layer in enumerate(program.layer_of) if layer in range(first, stop)]
            ends = [i for i in np.flatnonzero(program.layer_of == -1) if i > mine[0]]
            mine = sorted([*mine, *ends[: (first < 2) + (stop > 2)]])
            for stream in (expected := program.instructions[mine], found := part.instructions.copy()):
                stream["wait"] = stream["signal"] = 0
            assert (
                found.tobytes() == expected.tobytes()
                and part.layer_of.tolist() == program.layer_of[mine].tolist()
            )
            assert 0 < finish_cycles(part).max() <= finish_cycles(program).max()


def tried(
    monkeypatch: pytest.MonkeyPatch, seed: int, saves: Callable[[Trials, Cascade], float]
) -> set[Cascade]:
    """The cascades that are tried around a layer of three, of which any that are made one by one cost 5000."""
    asked = set()

    def cycles(self: Trials, first: int, last: int, *cascades: Cascade) -> float:
        asked.update(cascades)
        return 5000 - sum(saves(self, cascade) for cascade in cascades)

    trials = trials_of(three_layers(), TARGET)
    trials.cycles_now, trials.budget = 1e6, 1000
    monkeypatch.setattr(Trials, "cycles", cycles)
    _grow(trials, seed, [])
    return asked


@pytest.mark.parametrize(("part", "grown"), [(WORTH_GROWING - 0.1, False), (WORTH_GROWING + 0.1, True)])
def test_what_saves_next_to_nothing_is_not_grown(
    part: float, grown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cascade of two layers saves such a part of the least gain that counts; one of more layers nothing."""

    def saves(trials: Trials, cascade: Cascade) -> float:
        return part * LEAST_GAIN * trials.cycles_now if len(cascade.layers) == 2 else 0

    stripes = {c.each for c in tried(monkeypatch, 0, saves) if c.last == 1}
    assert (len(stripes) > len(FIRST_STRIPES)) == grown


@pytest.mark.parametrize(("times", "finer"), [(HOPELESS - 0.05, True), (HOPELESS + 0.05, False)])
def test_what_is_hopeless_is_not_tried_in_more_stripes(
    times: float, finer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cascade costs so many times as much as its layers."""
    rows = (61, 31, 31)
    found = tried(monkeypatch, 1, lambda trials, cascade: 5000 * (1 - times))
    assert found and any(cascade.each < rows[cascade.last] for cascade in found) == finer


def test_what_a_map_is_resized_from_counts() -> None:
    """Two that differ in the rows that they read, not in shape."""

    def resized(rows: np.ndarray) -> str:  # type: ignore[type-arg]
        net = Net(x=(1, 16, 16, 16))
        table = np.stack([rows, rows, np.full(16, 2048), np.zeros(16)], 1).astype(np.uint16)
        net.add(Resize(table, table, taps=1, factor=1 / 2**22), ["x"], "y", (1, 16, 16, 16))
        network = net.network("y")
        return outline(make_plan(network, TARGET, plan_storage(network)), range(1))

    assert resized(np.arange(16)) != resized(np.arange(16)[::-1])


@pytest.fixture(scope="module")
def helpers() -> Iterator[Helpers]:
    made = Helpers(2)
    yield made
    made.close()


def until(done: Callable[[], bool]) -> None:
    """Wait, as long as a process may need to begin."""
    for _ in range(1200):
        if done():
            return
        time.sleep(0.05)
    raise TimeoutError


def results(helpers: Helpers, task: int, count: int) -> list[tuple[int, Any, Any]]:
    """So many of a task."""
    found: list[tuple[int, Any, Any]] = []

    def enough() -> bool:
        found.extend(result for result in helpers.results() if result[0] == task)
        return len(found) >= count

    until(enough)
    return sorted(found)


def test_with_helpers_the_same_is_found(helpers: Helpers) -> None:
    """Once while they begin, and once while they are ready."""
    network = three_layers(kernel=1)
    alone = chosen(network)
    for _ in range(2):
        assert chosen(network, Aids(helpers=helpers)) == alone
        ready = helpers.begin(_one_more)
        helpers.want(ready, [(0,), (1,)])
        results(helpers, ready, 2)


def test_what_helpers_find_is_what_a_search_finds(helpers: Helpers, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they found is not lowered here, and remembered."""
    network, aids = three_layers(kernel=1), Aids(helpers=helpers)
    state = replace(trials_of(network, TARGET), aids=aids)
    asked = [Cascade(0, 1, 4), Cascade(1, 2, 2), Cascade(0, 1, 99)]
    alone = [trials_of(network, TARGET).cycles(c.first, c.last, c) for c in asked]
    monkeypatch.setattr(Trials, "_lowered", lambda *_: pytest.fail("a trial was made again"))
    with state.helped():
        state.try_ahead(asked)
        until(lambda: state.hear() or len(state.known) == len(asked))
    assert [state.cycles(c.first, c.last, c) for c in asked] == alone
    assert len(aids.remembered) == 3


def _one_more(key: int) -> int:
    return key + 1


def _dies() -> None:
    raise ValueError


def test_helpers_share_what_is_wanted(helpers: Helpers) -> None:
    """What is not wanted any more is not found, nor is anything of a task that ended."""
    task = helpers.begin(_one_more)
    helpers.want(task, [(1,), (2,), (3,)])
    assert results(helpers, task, 3) == [(task, (1,), 2), (task, (2,), 3), (task, (3,), 4)]
    helpers.want(task, [(1,), (4,)])  # of which the first was told
    assert results(helpers, task, 1) == [(task, (4,), 5)]
    for stop in (lambda task: helpers.want(task, []), helpers.end):
        slow = helpers.begin(time.sleep)
        helpers.want(slow, [(0.3,), (0.3,), (99,), (99,)])
        stop(slow)
        other = helpers.begin(_one_more)
        helpers.want(other, [(1,), (2,)])
        assert results(helpers, other, 2) == [(other, (1,), 2), (other, (2,), 3)]


def test_a_search_does_without_helpers_that_died() -> None:
    made = Helpers(1)
    made.once(_dies)
    process = made._all[0]._process
    assert process is not None and process.wait(60) != 0
    network = three_layers(kernel=1)
    assert chosen(network, Aids(helpers=made)) == chosen(network)


def test_helpers_try_layers_that_one_cascade_hardly_has() -> None:
    found = _scattered(10, [10 + BETWEEN, 11 + BETWEEN, 9 - BETWEEN, 12 + BETWEEN, 30, 40, 50, 60])
    assert found == [11 + BETWEEN, 9 - BETWEEN, 30, 40][:AHEAD]


def test_a_network_in_another_form_is_kept_only_if_it_is_faster(
    helpers: Helpers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what it costs found here, by a helper, and remembered."""
    network, aids = three_layers(kernel=1), Aids()
    plain = priced(network, TARGET, finish_cycles)
    better = choose_cascades(network, TARGET, finish_cycles, BUDGET)
    assert better.cost < plain.cost
    assert faster(better, network, finish_cycles, aids) is better
    worse = replace(better, finish=plain.finish + 1)
    assert faster(worse, network, finish_cycles, aids).cost == plain.cost
    assert list(aids.remembered.values()) == [plain.cost[1]]

    helped = Aids(helpers=helpers)
    find_ahead(network, TARGET, finish_cycles, helped)
    until(lambda: bool(helped.hear()))
    assert helped.remembered == aids.remembered
    monkeypatch.setattr("ommatid.compiler.trial.priced", lambda *_: pytest.fail("it was priced again"))
    assert faster(better, network, finish_cycles, helped) is better


def test_where_stages_end_counts() -> None:
    """Each partition ends with an instruction that waits for all before it."""
    network = three_layers(kernel=1)
    layers = network.layers
    two = replace(network, stages=(Stage(layers[:1]), Stage(layers[1:])))
    one, other = (outline(make_plan(each, TARGET, plan_storage(each)), range(3)) for each in (network, two))
    assert one != other


def test_weights_that_each_stripe_loads_again() -> None:
    """Of 45 KiB, for eleven stripes of six rows."""
    net = Net(x=(1, 61, 61, 16))
    net.conv("x", "a", 64, kernel=3)
    net.conv("a", "y", 64, kernel=3)
    network, cascade = net.network("y"), Cascade(0, 1, 6)
    assert reloaded_bytes(network, cascade, replace(TARGET, sram_kib=44)) == 11 * 45 * 1024
    assert reloaded_bytes(network, cascade, replace(TARGET, sram_kib=45)) == 0


@pytest.mark.parametrize(("times", "is_tried"), [(HOPELESS - 0.1, True), (HOPELESS + 0.1, False)])
def test_what_loads_alone_make_hopeless_is_not_tried(
    times: float, is_tried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loads of weights take so many times as long as the layers of the cascade one by one."""
    ends = [0.0, *trials_of(three_layers(), TARGET).ends]

    def moved(network: Network, cascade: Cascade, target: Target) -> float:
        cycles = ends[cascade.last + 1] - ends[cascade.first]
        return times * cycles * target.dram_bytes_per_cycle / (1 + DRAM_WEIGHT)

    monkeypatch.setattr("ommatid.compiler.trial.reloaded_bytes", moved)
    assert bool(tried(monkeypatch, 1, lambda trials, cascade: 0)) == is_tried


def test_cascades_that_do_not_fit_alone_are_not_tried_together(monkeypatch: pytest.MonkeyPatch) -> None:
    two = (Cascade(0, 1, 4), Cascade(2, 3, 4))
    net = Net(x=(1, 61, 61, 16))
    for i in range(4):
        net.conv(f"a{i - 1}" if i else "x", f"a{i}", 64 if i % 2 else 16, kernel=1)
    filled(net)
    state = trials_of(net.network("a3"), TARGET)
    monkeypatch.setattr(Trials, "fits", lambda *_: False)
    assert neighbours(state, two) == two and not state.asked
    monkeypatch.setattr(Trials, "fits", lambda *_: True)
    neighbours(state, two)
    assert len(state.asked) > 1


def test_the_search_tells_how_far_it_is() -> None:
    told: list[tuple[str, float]] = []
    chosen(three_layers(kernel=1), Aids(say=lambda doing, share: told.append((doing, share))))
    shares = [share for _, share in told]
    assert len(told) > 5 and shares == sorted(shares) and shares[-1] <= 1
    assert "cycles" in told[0][0] and told[0][0] != told[-1][0]


def test_a_file_of_trials(tmp_path: Path) -> None:
    """A search that was stopped goes on; damaged lines and a folder that cannot be written do no harm."""
    path, network = tmp_path / "trials.txt", three_layers(kernel=1)
    found = chosen(network, Aids(StoredTrials(path)))
    lines = path.read_text().splitlines()
    assert len(lines) == len(dict(StoredTrials(path))) > 5
    path.write_bytes(
        b"\n".join(
            [*(line.encode() for line in lines[:4]), b"\xff\x00 1", b"cut off", lines[5].encode()[:-9]]
        )
    )
    stored = StoredTrials(path)
    assert {line.split()[0] for line in lines[:4]} <= set(stored)
    assert chosen(network, Aids(stored)) == found
    nowhere = StoredTrials(tmp_path / "file" / "trials.txt")
    (tmp_path / "file").write_text("")
    assert chosen(network, Aids(nowhere)) == found


def test_a_file_of_trials_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trials.txt"
    monkeypatch.setattr(trials, "KEPT", 3)
    first = StoredTrials(path)
    for i in range(6):
        first[f"{i}"] = i
    assert [*StoredTrials(path)] == ["3", "4", "5"] and len(path.read_text().splitlines()) == 6
    first["6"] = math.inf
    assert [*StoredTrials(path).items()] == [("4", 4), ("5", 5), ("6", math.inf)]
    assert len(path.read_text().splitlines()) == 3
