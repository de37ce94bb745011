"""The emitter: constants once, activations behind constants and instructions, fields within their limits."""

from __future__ import annotations

import numpy as np
import pytest

from ommatid.compiler.emit import Emitter
from ommatid.isa.instructions import Memory, view
from ommatid.isa.program import ROLES


def test_a_constant_is_stored_once() -> None:
    emitter = Emitter()
    data = np.arange(65, dtype=np.uint8)
    first, other = emitter.constant(data), emitter.constant(data[:64])
    assert (first, other) == ((0, 0), (128, 1))
    assert emitter.constant(data.copy()) == first and emitter.constant(data[:64]) == other
    made = emitter.finish()
    assert made.constants.tobytes() == bytes(range(65)) + bytes(63) + bytes(range(64))
    assert made.symbols["address"].tolist() == [0, 128] and made.symbols["bytes"].tolist() == [65, 64]
    assert (made.symbols["role"] == ROLES.index("constants")).all()


def test_activations_lie_behind_constants_and_instructions() -> None:
    emitter = Emitter(layer=7)
    address, constant = emitter.constant(np.zeros(5000, np.uint8))
    activation = emitter.symbol(Memory.DRAM, "activation", 64, 16)
    tile = emitter.symbol(Memory.SRAM, "tile", 256, 16)
    emitter.emit("load", {"src": constant, "dst": tile}, src=address + 8, dst=256, run=16)
    emitter.emit("store", {"src": tile, "dst": activation}, src=256, dst=68, run=8)
    emitter.layer = 8
    emitter.emit("end", {})
    made = emitter.finish()
    assert made.dram_base == 8192  # 5056 bytes of constants and 3 * 128 of instructions, rounded up to 4096
    assert made.symbols["address"].tolist() == [0, 8192 + 64, 256]
    assert made.symbols["layer"].tolist() == [7, 7, 7] and made.layer_of.tolist() == [7, 7, 8]
    load, store = view(made.stream, "load")[0], view(made.stream, "store")[1]
    assert (load["src"], load["dst"], load["n3"]) == (8, 256, 1)
    assert (store["src"], store["dst"], store["run"]) == (256, 8192 + 68, 8)
    assert made.operands[:, :2].tolist() == [[constant, tile], [tile, activation], [-1, -1]]


def test_nothing_at_all() -> None:
    made = Emitter().finish()
    assert (len(made.stream), len(made.constants), len(made.symbols), made.dram_base) == (0, 0, 0, 0)


@pytest.mark.parametrize("fields, message", [
    ({"run": 0}, r"fill.run = 0: must be 1..4294967295"),
    ({"run": 1, "value": 256}, r"fill.value = 256: must be 0..255"),
    ({"run": 1, "n1": 65536}, r"fill.n1 = 65536: must be 1..65535"),
    ({"run": 1, "dst_s1": -(2**31) - 1}, r"fill.dst_s1 = -2147483649: must be -2147483648..2147483647"),
])  # fmt: skip
def test_a_field_outside_its_limits(fields: dict[str, int], message: str) -> None:
    emitter = Emitter()
    emitter.emit("fill", {}, run=1)
    emitter.emit("fill", {}, **fields)
    with pytest.raises(ValueError, match=message):
        emitter.finish()


def test_a_form_makes_what_emit_makes() -> None:
    """Fields that all have are named once, and kept within their limits too."""
    one, other = Emitter(layer=3), Emitter(layer=3)
    fields = {"dst": 64, "run": 16, "n1": 2, "dst_s1": 32, "value": 7}
    form = one.form("fill", ("dst", "run", "dst_s1"), ("dst",), {"n1": 2, "value": 7})
    for emitter in (one, other):
        tile = emitter.symbol(Memory.SRAM, "tile", 64, 96)
    for dst in (64, 96):
        one.add(form, (dst, 16, 32), (tile,))
        one.emit("end", {})
        other.emit("fill", {"dst": tile}, **fields | {"dst": dst})
        other.emit("end", {})
    made = one.finish(), other.finish()
    assert made[0].stream.tobytes() == made[1].stream.tobytes()
    assert made[0].operands.tolist() == made[1].operands.tolist() and made[0].operands[2, 0] == tile
    one.add(one.form("fill", ("run",), (), {"value": 256}), (1,), ())
    with pytest.raises(ValueError, match=r"fill.value = 256: must be 0..255"):
        one.finish()


def test_forms_of_several_layers_keep_apart() -> None:
    """They name the same fields, each with values of its own, and come in turns."""
    emitter = Emitter()
    forms = [emitter.form("fill", ("run",), (), {"n1": n, "value": n + 10}) for n in (1, 2, 3)]
    order = [0, 2, 1, 0, 0, 2]
    for emitter.layer, which in enumerate(order):
        emitter.add(forms[which], (100 + emitter.layer,), ())
    made = emitter.finish()
    found = view(made.stream, "fill")
    assert found["run"].tolist() == [100, 101, 102, 103, 104, 105] and made.layer_of.tolist() == [*range(6)]
    assert found["n1"].tolist() == [1 + which for which in order]
    assert found["value"].tolist() == [11 + which for which in order]


def test_a_symbol_beyond_its_field() -> None:
    emitter = Emitter()
    emitter.symbol(Memory.DRAM, "activation", 0, 2**32)
    with pytest.raises(ValueError, match="a symbol's bytes is beyond what its field holds"):
        emitter.finish()
