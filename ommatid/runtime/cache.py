"""The cache of compiled programs on disk; several processes may share it."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

from ommatid.isa import release
from ommatid.isa.program import Program
from ommatid.isa.program_file import ProgramFileError, load, save
from ommatid.isa.target import Target, load_target


def cache_folder() -> Path:
    """``OMMATID_CACHE_DIR``, or the user's cache folder."""
    given = os.environ.get("OMMATID_CACHE_DIR")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ommatid"


def compiled(source: Any, options: dict[str, Any]) -> Program:
    """The program of an ONNX model, from the cache if it was compiled before with the same options.

    Raises:
        CompileError, TargetError: the model cannot be compiled.
    """
    from ommatid.compiler.pipeline import compile_model

    key = _key(source, options)
    if key is None:
        return compile_model(source, **options)
    path = cache_folder() / f"{key}.omm"
    if path.exists():
        with contextlib.suppress(ProgramFileError):  # a damaged entry is made again
            return load(path)
    program = compile_model(source, **options)
    with contextlib.suppress(OSError):  # a cache that cannot be written is no cache
        path.parent.mkdir(parents=True, exist_ok=True)
        save(program, path)
    return program


def _key(source: Any, options: dict[str, Any]) -> str | None:
    """A hash of model, options, target and version; None where the options cannot be hashed."""
    digest = hashlib.sha256(release().encode())
    try:
        if isinstance(source, str | Path):
            path = Path(source)
            digest.update(path.read_bytes())
            for extra in sorted(path.parent.glob(f"{path.name}.data*")):
                digest.update(extra.read_bytes())
        else:
            digest.update(
                source if isinstance(source, bytes) else source.SerializeToString(deterministic=True)
            )
    except (OSError, AttributeError):
        return None
    for name, value in sorted(options.items()):
        text = _option(name, value)
        if text is None:
            return None
        digest.update(f"{name}={text};".encode())
    if "target" not in options:
        digest.update(load_target().digest().encode())
    return digest.hexdigest()


def _option(name: str, value: Any) -> str | None:
    if name == "target":
        return (value if isinstance(value, Target) else load_target(value)).digest()
    if value is None or isinstance(value, str | int | float | bool | tuple | list):
        path = Path(value) if isinstance(value, str) and name == "calibration" else None
        if path is not None and path.exists():
            files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
            return hashlib.sha256(b"".join(f.name.encode() + f.read_bytes() for f in files)).hexdigest()
        return repr(value)
    if isinstance(value, dict):
        return repr(sorted((k, tuple(v)) for k, v in value.items()))
    return None
