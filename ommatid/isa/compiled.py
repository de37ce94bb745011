"""How functions are compiled, and kept on disk so that the next process need not; never for other sources than these.

Compiled code holds all that it calls and the constants of other modules, so what is kept is valid for a hash of
the function's module and all modules of the package that this imports, directly or not.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc


def sources(file: Path) -> bytes:
    """A hash of a module and of all modules of its package that it imports, directly or not."""
    package = file.parent
    while (package.parent / "__init__.py").exists():
        package = package.parent
    seen, left = {file}, [file]
    while left:
        new = set(_imports(left.pop(), package)) - seen
        seen |= new
        left += new
    return hashlib.sha256(b"".join(each.read_bytes() for each in sorted(seen))).digest()


@functools.cache
def _imports(file: Path, package: Path) -> tuple[Path, ...]:
    """The files of the package that a module imports modules or names from."""
    statement = rf"^\s*(?:from|import) +({package.name}[\w.]*)(?: +import +(?:\(([^)]*)\)|(.*)))?"
    names = []
    for module, several, few in re.findall(statement, file.read_text(encoding="utf-8"), re.MULTILINE):
        names += [module, *(f"{module}.{name}" for name in re.findall(r"\w+", several or few))]
    return tuple(path for name in names if (path := _file(name, package)))


def _file(name: str, package: Path) -> Path | None:
    """The file of a module of the package, None if that has no module of this name."""
    path = package.parent.joinpath(*name.split("."))
    found = (path.with_suffix(".py"), path / "__init__.py")
    return next((each for each in found if each.is_file()), None)


@functools.cache
def tell() -> None:
    """Say, once, what takes so long."""
    print("ommatid: compiling inner loops for this machine, once", file=sys.stderr, flush=True)


class Kept(FunctionCache):
    """Numba's cache of one function, valid for these sources, that says when it has nothing."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file._source_stamp = sources(Path(function.__code__.co_filename).resolve())

    def load_overload(self, signature: Any, context: Any) -> Any:
        """The compiled function, or None."""
        try:
            found = super().load_overload(signature, context)
        except (
            AttributeError,
            ImportError,
            TypeError,
        ):  # kept by an earlier version, of types that are no more
            self._cache_file.flush()
            found = None
        if found is None:
            tell()
        return found


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function that only compiled ones call: it becomes part of them, and is not kept by itself."""
    return numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a function as ``kernel`` does, for places where a call would take longer than what it does."""
    options = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "forceinline": True}
    return numba.njit(error_model="numpy", **options)(function)


def entry(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls, and keep it with all that it calls."""
    compiled = numba.njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)(function)
    compiled._cache = Kept(function)
    return compiled


def callback(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function with a C signature, of which ``address`` tells the place, and keep it."""

    def compile_it(function: Callable[..., Any]) -> Any:
        made = CFunc(function, (signature.args, signature.return_type), {}, {"nopython": True})
        made._cache = Kept(function)
        return made

    return compile_it
