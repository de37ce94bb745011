"""Memory planning: no two buffers that are alive together share a byte, and SRAM is not promised twice."""

from __future__ import annotations

import dataclasses
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from ommatid.compiler.layers import Concat
from ommatid.compiler.memory import (
    RESIDENT_SHARE,
    Lifetime,
    alive_at_peak,
    boxes_of,
    choose_resident,
    lifetimes,
    place_in_dram,
    place_in_sram,
)
from ommatid.compiler.sram import aligned
from ommatid.compiler.storage import plan_storage
from ommatid.isa.target import load_target
from tests.compiler.nets import Net, binary, table

TARGET = dataclasses.replace(load_target("ommatid-256"), sram_kib=32)


def test_a_buffer_lives_from_its_writer_to_its_last_reader() -> None:
    net = Net(x=(1, 2, 2, 4))
    a = net.map("x", "a", table())  # layer 0
    b = net.map(a, "b", table())  # layer 1
    c = net.map(b, "c", binary("add", a))  # layer 2
    d = net.cpu(c, "d")
    e = net.map(d, "e", table())  # layer 3
    network = net.network(c, e)
    lives = lifetimes(network, plan_storage(network))
    assert lives == {
        "x": Lifetime(0, 0, 2),
        "a": Lifetime(0, 2, 3),
        "b": Lifetime(1, 2, 2),
        "c": Lifetime(2, 4, 2),
        "d": Lifetime(0, 3, 2),
        "e": Lifetime(3, 4, 2),
    }


def test_parts_of_one_buffer_live_together() -> None:
    net = Net(x=(1, 2, 2, 4))
    a, b = net.map("x", "a", table()), net.map("x", "b", table())
    ab = net.add(Concat(3, (None, None)), [a, b], "ab", (1, 2, 2, 8))
    c = net.map(ab, "c", table())
    network = net.network(c)
    lives = lifetimes(network, plan_storage(network))
    assert lives["ab"] == Lifetime(0, 3, 3) and "a" not in lives


LIVES = st.dictionaries(
    st.sampled_from("abcdefghijkl"),
    st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(1, 5), st.integers(1, 9000)),
    min_size=1,
)


@settings(deadline=None, max_examples=100)
@given(LIVES, st.sets(st.sampled_from("abcdefghijkl")), st.sets(st.sampled_from("abcdefghijkl")))
def test_nothing_shares_a_byte(
    table: dict[str, tuple[int, int, int, int]], outside: set[str], never: set[str]
) -> None:
    lives = {name: Lifetime(min(a, b), max(a, b), uses) for name, (a, b, uses, _) in table.items()}
    sizes = {name: size for name, (_, _, _, size) in table.items()}
    net = Net(**{name: (size,) for name, size in sizes.items()})
    net.fed = outside & sizes.keys()
    network = net.network()
    storage = plan_storage(network)
    assert storage.buffer_bytes == sizes
    resident = choose_resident(network, storage, lives, TARGET, frozenset(never))
    assert not resident & (outside | never)
    for at in range(9):
        alive = [name for name in resident if lives[name].first <= at <= lives[name].last]
        assert sum(aligned(sizes[name]) for name in alive) <= TARGET.sram_bytes * RESIDENT_SHARE
    for name in lives.keys() - resident - outside - never:  # it would not have fitted
        span = range(lives[name].first, lives[name].last + 1)
        used = [
            sum(aligned(sizes[n]) for n in resident if lives[n].first <= at <= lives[n].last) for at in span
        ]
        assert max(used) + aligned(sizes[name]) > int(TARGET.sram_bytes * RESIDENT_SHARE)
    inside = place_in_sram(sizes, lives, resident, TARGET.sram_bytes, 1000)
    assert inside.keys() == resident and all(at % 64 == 0 for at in inside.values())
    assert all(0 <= inside[name] <= TARGET.sram_bytes - sizes[name] for name in resident)
    outside = [place_in_dram(sizes, lives, resident, steps) for steps in (0, 1000)]
    for addresses, total in outside:
        assert addresses.keys() == lives.keys() - resident
        assert total == max((addresses[n] + aligned(sizes[n]) for n in addresses), default=0)
    for addresses in (inside, *(each for each, _ in outside)):
        for a, b in combinations(addresses, 2):
            together = lives[a].first <= lives[b].last and lives[b].first <= lives[a].last
            apart = addresses[a] + sizes[a] <= addresses[b] or addresses[b] + sizes[b] <= addresses[a]
            assert apart or not together


def test_what_is_used_most_stays() -> None:
    sizes = {"seldom": 8000, "often": 8000, "small": 8000 - 64, "long": 8000}
    lives = {
        "seldom": Lifetime(0, 1, 2),
        "often": Lifetime(0, 1, 4),
        "small": Lifetime(0, 1, 2),
        "long": Lifetime(0, 3, 4),
    }
    net = Net(**{name: (size,) for name, size in sizes.items()})
    net.fed = set()
    network = net.network()
    resident = choose_resident(network, plan_storage(network), lives, TARGET, frozenset())
    assert resident == {"often", "small"}


def test_dram_is_used_again() -> None:
    sizes, lives = {"a": 100, "b": 100}, {"a": Lifetime(0, 1, 2), "b": Lifetime(1, 2, 2)}
    assert place_in_dram(sizes, lives, frozenset()) == ({"a": 0, "b": 128}, 256)
    apart = lives | {"b": Lifetime(2, 2, 1)}
    assert place_in_dram(sizes, apart, frozenset()) == ({"a": 0, "b": 0}, 128)


def test_the_exact_planner_needs_less() -> None:
    """In order of use, c finds no hole; the exact planner puts the short-lived ones side by side."""
    sizes = {"a": 64, "b": 64, "c": 128}
    lives = {"a": Lifetime(0, 0, 1), "b": Lifetime(0, 2, 2), "c": Lifetime(1, 1, 1)}
    assert place_in_dram(sizes, lives, frozenset())[1] == 256
    addresses, total = place_in_dram(sizes, lives, frozenset(), 100)
    assert total == 192 and addresses["c"] in (0, 64)
    assert min(place_in_sram(sizes, lives, frozenset(lives), 1024, 100).values()) == 1024 - 192
    assert [box.name for box in alive_at_peak(boxes_of(sizes, lives, lives))] == ["b", "c"]
