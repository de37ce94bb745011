"""What executors that know only 8 bits refuse."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.isa.instructions import BY_OPCODE, view

#: Fields and their least value that asks for 16 bits.
_WIDE = {"acc_bytes": 8, "element_bytes": 2, "table1_on": 2, "table2_on": 2}


class NotExecutable(NotImplementedError):
    """An instruction that the executor does not know; the message names it."""


def refuse_wide(stream: np.ndarray[Any, Any], executor: str) -> None:
    """Raise NotExecutable if an instruction works on 16-bit elements."""
    for opcode in np.unique(stream["opcode"]):
        row = BY_OPCODE[int(opcode)]
        records = view(stream, row.mnemonic)
        least = {f.name: 2 if f.name.endswith("_type") else _WIDE.get(f.name) for f in row.fields}
        asks = np.zeros(len(stream), bool)
        for name, value in least.items():
            if value is not None:
                asks |= records[name] >= value
        for i in np.flatnonzero(asks & (stream["opcode"] == opcode))[:1]:
            raise NotExecutable(f"instruction {i} ({row.mnemonic}): {executor} knows no 16-bit elements")
