"""The cache of compiled programs on disk; several processes may share it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ommatid.compiler.cache_folder import cache_folder
from ommatid.compiler.recipe import read_recipe, to_toml
from ommatid.isa import release
from ommatid.isa.program import Program
from ommatid.isa.program_file import ProgramFileError, load, save
from ommatid.isa.target import DEFAULT_TARGET, Target, load_target


def compiled(source: Any, options: dict[str, Any]) -> Program:
    """The program of an ONNX model, from the cache if it was compiled before with the same options.

    Raises:
        CompileError, TargetError: the model cannot be compiled.
    """
    from ommatid.runtime.compile import compile_model

    key = program_key(source, options)
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


def program_key(source: Any, options: dict[str, Any]) -> str | None:
    """A hash of model, options, target and compiler; None where the model or an option cannot be hashed."""
    digest = hashlib.sha256(f"{release()}{code_digest('isa', 'compiler')}".encode())
    try:
        for part in _model_parts(source):
            digest.update(part)
    except (OSError, AttributeError):
        return None
    for name, value in sorted({"target": DEFAULT_TARGET, **options}.items()):
        text = _OPTIONS.get(name, _plain)(value)
        if text is None:
            return None
        digest.update(f"{name}={text};".encode())
    return digest.hexdigest()


@functools.cache
def code_digest(*parts: str) -> str:
    """A hash of the code of parts, or of the whole package: in a checkout it changes more often than the version."""
    package = Path(__file__).parents[1]
    files = sorted(file for part in parts or ("",) for file in (package / part).rglob("*.py"))
    return _sha256(file.read_bytes() for file in files)


def _model_parts(source: Any) -> Iterator[bytes]:
    """The bytes that a model is made of, its external data among them."""
    if not isinstance(source, str | Path):
        yield source if isinstance(source, bytes) else source.SerializeToString(deterministic=True)
        return
    data = Path(source).read_bytes()
    yield data
    for location in _external_locations(data):
        yield (Path(source).parent / location).read_bytes()


def _external_locations(data: bytes) -> list[str]:
    """The files beside a model that hold its weights; none where it cannot be read."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    try:
        graph = onnx.load_from_string(data).graph
    except Exception:  # protobuf has several ways of saying no; the compiler says it better
        return []
    return sorted({ExternalDataInfo(t).location for t in graph.initializer if uses_external_data(t)})


def _sha256(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def _plain(value: Any) -> str | None:
    """An option's value as text that differs where values differ; None if it is not plain data."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, Mapping):
        value = sorted(value.items())
    if isinstance(value, list | tuple):
        parts = [_plain(each) for each in value]
        return None if None in parts else f"[{','.join(map(str, parts))}]"
    return repr(value) if value is None or isinstance(value, str | int | float | bool) else None


def _calibration(value: Any) -> str | None:
    """A hash of calibration data: files, or feeds in memory; None for what can be read only once."""
    if isinstance(value, str | Path):
        path = Path(value)
        files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
        return _sha256(part for f in files if f.exists() for part in (f.name.encode(), f.read_bytes()))
    if isinstance(value, list | tuple):
        return _sha256(
            part
            for feeds in value
            for name, array in sorted(feeds.items())
            for part in (f"{name} {array.dtype} {array.shape}".encode(), array.tobytes())
        )
    return _plain(value)


def _recipe(value: Any) -> str | None:
    """A recipe's contents, not its path."""
    recipe = read_recipe(value) if isinstance(value, str | Path) else value
    return "" if recipe is None else to_toml(recipe)


def _target(value: Any) -> str:
    return (value if isinstance(value, Target) else load_target(value)).digest()


#: Option: how its value becomes text, where that is not ``_plain``.
_OPTIONS: dict[str, Callable[[Any], str | None]] = {
    "target": _target, "calibration": _calibration, "recipe": _recipe,
}  # fmt: skip
