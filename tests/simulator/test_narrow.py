"""Executors that know only 8 bits say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ommatid.isa.program import Program
from ommatid.simulator import timing
from ommatid.simulator.functional import Machine
from tests.isa.builder import Builder


@pytest.mark.parametrize("execute", [Machine, timing.simulate])
@pytest.mark.parametrize("mnemonic, fields", [
    ("conv", {"src_type": 2, "acc_bytes": 8}), ("map", {"source": 1, "acc_bytes": 8}), ("copy", {"element_bytes": 2}),
    ("map", {"table1_on": 2}), ("pool", {"dst_type": 2, "kind": 1}),
])  # fmt: skip
def test_sixteen_bits_are_refused(
    execute: Callable[[Program], Any], mnemonic: str, fields: dict[str, int]
) -> None:
    b = Builder()
    b.emit(mnemonic, **fields)
    with pytest.raises(NotImplementedError, match=f"{mnemonic}.*knows no 16-bit elements"):
        execute(b.program())
