"""What keeps several cores from being so many times as fast as one, on programs whose cycles are counted by hand."""

from __future__ import annotations

import pytest

from ommatid.profiler.cores import by_one_core, sentences, shares
from ommatid.profiler.profile import profile
from ommatid.runtime.compile import compile_network
from tests.compiler.test_parts import FOUR, ONE, Author, residual
from tests.isa.builder import Builder


def test_cycles_of_arrays_by_hand() -> None:
    """Core 0 multiplies alone, then waits for a map; core 1 for a load; core 2 has nothing to do after a while."""
    b = Builder("ommatid-4k")
    conv = {"in_h": 8, "in_w": 8, "out_h": 8, "out_w": 8, "cin": 16, "cout": 16, "src_row": 128, "src_pixel": 16,
            "acc_pixel": 64, "weights": 4096}  # fmt: skip
    b.conv(**conv, signal=["vx"])
    b.map(source=1, src_row=512, src_pixel=64, h=8, w=8, c=16, parameters=8192, dst=16384, dst_row=128, dst_pixel=16,
          wait=["mx"], signal=["mx"])  # fmt: skip
    b.conv(**conv, wait=["vx"], signal=["ctl"])
    b.load(core=1, run=4096, signal=[(1, "mx")])
    b.conv(core=1, **conv, wait=[(1, "load")], signal=[(0, "ctl")])
    b.conv(core=2, **conv, signal=[(0, "ctl")])
    b.end(wait=["mx", (1, "mx"), (2, "mx")])
    result = profile(b.program())
    found = shares(result)
    assert sum(found.values()) == pytest.approx(4)
    by = {(e.core, e.engine): e for e in result.engines}
    waits = by[0, "mx"].stall_cycles["token_vx"]
    assert waits > 0 and found["vector"] == pytest.approx(waits / result.cycles)
    loads = by[1, "mx"].stall_cycles
    assert found["dram"] == pytest.approx((loads["bandwidth"] + loads["latency"]) / result.cycles, rel=0.2)
    assert found["idle"] > 1  # core 3 has nothing
    assert found["multiply"] == 0 and found["not_full"] > 0  # no layer, and so no MACs


def test_of_a_network() -> None:
    four, one = (profile(compile_network(residual(1), target)) for target in (FOUR, ONE))
    assert sum(shares(four).values()) == pytest.approx(4) and shares(one) == {} and sentences(one) == []
    assert all(value > -1e-9 for value in shares(four).values())
    assert by_one_core(one) == by_one_core(four) == []


def test_a_layer_that_one_core_makes_is_named() -> None:
    net = Author(x=(1, 1, 1, 3))
    net.conv_of("x", "few", 8)
    result = profile(compile_network(net.network("few"), FOUR))
    assert by_one_core(result) == [("few", result.layers[0].cycles)]
    share = 100 * result.layers[0].cycles / result.cycles
    assert sentences(result)[-1] == f"{share:.1f}% of the cycles are of layers that one core makes: few"
