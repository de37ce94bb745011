"""``kernel``: how every kernel is compiled, and kept on disk so that the next process need not."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc


@functools.cache
def sources() -> bytes:
    """A hash of all kernels: compiled code holds what it calls, so none outlives a change to any of them."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()


@functools.cache
def tell() -> None:
    """Say, once, what takes so long."""
    print("ommatid: compiling the simulator's kernels for this machine, once", file=sys.stderr, flush=True)


class Kept(FunctionCache):
    """Numba's cache of one function, valid for these sources, that says when it has nothing."""

    def __init__(self, function: Callable[..., Any], entry: bool) -> None:
        super().__init__(function)
        self._cache_file._source_stamp = sources()
        self._entry = entry

    def load_overload(self, signature: Any, context: Any) -> Any:
        """The compiled function, or None."""
        found = super().load_overload(signature, context)
        if found is None and self._entry:
            tell()
        return found


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function that only other kernels call: it becomes part of them, and is not kept by itself."""
    return numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


def entry(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls, and keep it with all that it calls."""
    compiled = numba.njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)(function)
    compiled._cache = Kept(function, True)
    return compiled


def callback(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function with a C signature, of which ``address`` tells the place, and keep it."""

    def compile_it(function: Callable[..., Any]) -> Any:
        made = CFunc(function, (signature.args, signature.return_type), {}, {"nopython": True})
        made._cache = Kept(function, True)
        return made

    return compile_it
