"""Energy by level and area, by hand from the target's tables."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ommatid.isa.target import load_target
from ommatid.profiler.profile import profile
from ommatid.simulator.energy import LEVELS, area, energy_pj, static_pj
from tests.isa.builder import Builder


def levels(builder: Builder) -> list[dict[str, float]]:
    return [
        dict(zip(LEVELS, row.tolist(), strict=True)) for row in energy_pj(builder.stream(), builder.target)
    ]


def test_a_convolution_pays_for_macs_accumulators_and_words() -> None:
    b = Builder()
    b.conv(in_h=2, in_w=2, out_h=2, out_w=2, cin=32, cout=16, src_row=64, src_pixel=32, acc_pixel=64)
    (conv,) = levels(b)
    assert conv["mac"] == pytest.approx(4 * 32 * 16 * 0.3)
    # 2 steps of K = 16; each reads and writes 4 pixels x 16 accumulators of 4 bytes
    assert conv["acc"] == pytest.approx(2 * 2 * 4 * 16 * 4 * 1.25)
    # 4 pixels x 2 words, 2 tiles of 16 words of weights
    assert conv["sram"] == pytest.approx((8 + 32) * 16 * 2.5)
    assert (conv["vx"], conv["dram"]) == (0, pytest.approx(128 * 162.5))


def test_16_bits_pay_for_their_passes_and_bytes() -> None:
    b = Builder()
    b.conv(in_h=2, in_w=2, out_h=2, out_w=2, cin=32, cout=16, src_row=128, src_pixel=64, acc_pixel=128, src_type=2,
           weights_type=2, acc_bytes=8)  # fmt: skip
    (conv,) = levels(b)
    assert conv["mac"] == pytest.approx(4 * 4 * 32 * 16 * 0.3)
    assert conv["acc"] == pytest.approx(2 * 2 * 4 * 16 * 8 * 1.25)
    assert conv["sram"] == pytest.approx((16 + 64) * 16 * 2.5)


def test_a_depthwise_convolution_pays_for_each_tap() -> None:
    b = Builder()
    b.dwconv(in_h=4, in_w=8, out_h=3, out_w=4, kh=2, kw=5, c=16, src_row=128, src_pixel=16, weights=8192,
             weights_tap=16, acc_pixel=64)  # fmt: skip
    (row,) = levels(b)
    assert row["mac"] == pytest.approx(3 * 4 * 2 * 5 * 16 * 0.3)
    assert row["acc"] == pytest.approx(2 * 5 * 2 * 3 * 4 * 16 * 4 * 1.25)  # each tap reads and writes


def test_what_drains_accumulators_pays_for_them_once() -> None:
    b = Builder()
    b.map(h=2, w=8, c=16, source=1, src_row=512, src_pixel=64, dst=4096, dst_row=128, dst_pixel=16)
    (row,) = levels(b)
    assert row["acc"] == pytest.approx(2 * 8 * 16 * 4 * 1.25)


def test_a_load_pays_for_whole_bursts_and_its_words() -> None:
    b = Builder()
    b.load(src=60, run=8)
    (load,) = levels(b)
    assert load["dram"] == pytest.approx((2 * 64 + 128) * 162.5)  # the run lies over a burst's edge
    assert load["sram"] == pytest.approx(16 * 2.5)
    assert load["mac"] == load["vx"] == load["acc"] == 0


def test_a_map_pays_for_its_elements() -> None:
    b = Builder()
    b.map(h=2, w=8, c=16, src_row=128, src_pixel=16, dst=4096, dst_row=128, dst_pixel=16)
    (row,) = levels(b)
    assert row["vx"] == pytest.approx(256 * 0.3)
    assert row["sram"] == pytest.approx((16 + 16) * 16 * 2.5)


def test_static_power_goes_with_time_and_a_profile_sums_the_levels() -> None:
    target = dataclasses.replace(load_target(), static_mw=50.0)
    assert static_pj(2000, target) == pytest.approx(50e-3 * 2e-6 * 1e12)  # 2000 cycles at 1 GHz are 2 us
    b = Builder(target)
    b.load(run=640, signal=["ctl"])
    b.end(wait=["load"])
    result = profile(b.program())
    expected = float(np.sum(energy_pj(b.stream(), target))) + static_pj(result.cycles, target)
    assert result.to_dict()["energy_uj"] == pytest.approx(expected / 1e6)


def test_area_counts_what_every_core_has() -> None:
    one, four = area(load_target("ommatid-1k")), area(load_target("ommatid-4k"))
    assert one.mac_mm2 == pytest.approx((1024 + 128 + 32) * 419e-6)
    assert one.memory_mm2 == pytest.approx((1024 + 64) * 1024 * 5.54e-6)
    assert one.port_mm2 == pytest.approx((64 + 32 + 64 + 32 + 16 + 16) * 296e-6)
    assert one.total_mm2 == pytest.approx(one.mac_mm2 + one.memory_mm2 + one.port_mm2)
    assert four.total_mm2 == pytest.approx(4 * one.total_mm2)
