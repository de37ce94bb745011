"""Constants in common are kept once, and every image comes back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ommatid.isa.pieces import joined, share
from ommatid.isa.program import ROLES, SYMBOL, Program, empty_program
from ommatid.isa.target import load_target

EMPTY = empty_program(load_target("ommatid-256"))


def program(*constants: bytes) -> Program:
    """A program of constants, a symbol for each."""
    ends = np.cumsum([0, *map(len, constants)])
    rows = [
        (0, ROLES.index("constants"), -1, begin, len(c)) for begin, c in zip(ends, constants, strict=False)
    ]
    return dataclasses.replace(
        EMPTY, constants=np.frombuffer(b"".join(constants), np.uint8), symbols=np.array(rows, SYMBOL)
    )


def test_only_what_is_new_is_kept() -> None:
    a, b, c = b"a" * 64, b"b" * 128, b"c" * 64
    kept, tables = share([program(a, b, a), program(b, c, a), program(c, c), program()])
    assert [k.tobytes() for k in kept] == [a + b + a, c, b"", b""]
    assert tables[1].tolist() == [[0, 64, 128], [1, 0, 64], [0, 0, 64]]
    assert tables[2].tolist() == [[1, 0, 64]] * 2 and tables[3].shape == (0, 3)


@given(
    st.lists(
        st.lists(st.sampled_from([b"ab", b"c", b"ab" * 3, b"c" * 9]), max_size=5), min_size=1, max_size=4
    )
)
def test_every_image_comes_back(images: list[list[bytes]]) -> None:
    programs = [program(*constants) for constants in images]
    programs.append(dataclasses.replace(programs[0], symbols=EMPTY.symbols))  # nothing says where to cut
    kept, tables = share(programs)
    for table, each in zip(tables, programs, strict=True):
        assert joined(kept, table).tobytes() == each.constants.tobytes()


@pytest.mark.parametrize("row", [(2, 0, 1), (-1, 0, 1), (0, 3, 2), (0, -1, 1), (1, 0, -1), (1, 2**62, 2**62)])
def test_a_piece_that_does_not_exist(row: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        joined([np.zeros(4, np.uint8)] * 2, np.array([row], np.int64))
