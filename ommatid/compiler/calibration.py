"""Calibration data: samples from a folder, an ``.npz`` file or memory, one at a time."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ommatid.compiler.errors import CompileError
from ommatid.compiler.model import fixed_shape

IMAGES = (".png", ".jpg", ".jpeg", ".bmp")
Feeds = dict[str, np.ndarray[Any, Any]]
RANDOM_SAMPLES = 4


def samples(
    model: ir.Model, data: Any, preprocess: Callable[[Any, tuple[int, ...]], Any] | None
) -> Iterator[Feeds]:
    """Feeds for the model's inputs, streamed.

    ``data`` is a folder of images or ``.npy`` files, an ``.npz`` with one array per input (samples along the
    first axis), a sequence of feeds, or None: seeded random numbers.

    Raises:
        CompileError: absent, empty, or of other names, shapes or types than the inputs.
    """
    specs = {
        v.name or "": (fixed_shape(v) or (), v.dtype.numpy() if v.dtype else np.float32)
        for v in model.graph.inputs
    }
    if data is None:
        source = _random(specs)
    elif isinstance(data, str | Path):
        source = _from_path(Path(data), specs, preprocess)
    else:
        source = iter(data)
    count = 0
    for feeds in source:
        count += 1
        yield _checked(feeds, specs, str(data) if isinstance(data, str | Path) else "calibration data")
    if not count:
        raise CompileError(
            f"{data}: holds no calibration samples", "put images or .npy files into the folder"
        )


def _random(specs: Mapping[str, tuple[tuple[int, ...], Any]]) -> Iterator[Feeds]:
    generator = np.random.default_rng(0)
    for _ in range(RANDOM_SAMPLES):
        feeds = {}
        for name, (shape, dtype) in specs.items():
            real = np.issubdtype(dtype, np.floating)
            feeds[name] = (
                generator.standard_normal(shape) if real else generator.integers(0, 2, shape)
            ).astype(dtype)
        yield feeds


def _from_path(
    path: Path, specs: Mapping[str, tuple[tuple[int, ...], Any]], preprocess: Any
) -> Iterator[Feeds]:
    if path.suffix == ".npz":
        yield from _from_npz(path, specs)
        return
    if not path.is_dir():
        raise CompileError(
            f"{path}: no such folder or .npz file of calibration data",
            "give a folder of images or .npy files, or an .npz",
        )
    if len(specs) != 1:
        raise CompileError(
            f"{path}: the model has {len(specs)} inputs; a folder feeds only one",
            "use an .npz with one array per input",
        )
    name, (shape, _) = next(iter(specs.items()))
    for file in sorted(path.iterdir()):
        if file.suffix.lower() == ".npy":
            yield {name: _npy(file)}
        elif file.suffix.lower() in IMAGES:
            if preprocess is None:
                raise CompileError(
                    f"{file}: images need preprocessing options", "give --mean and --std, or .npy files"
                )
            yield {name: preprocess(file, shape)}


def _npy(file: Path) -> Any:
    try:
        return np.load(file, allow_pickle=False)
    except (EOFError, OSError, ValueError) as error:
        raise CompileError(f"{file}: cannot be read as .npy: {error}") from None


def _from_npz(path: Path, specs: Mapping[str, tuple[tuple[int, ...], Any]]) -> Iterator[Feeds]:
    """Samples along the first axis of the archive's arrays, read from it one by one."""
    try:
        with zipfile.ZipFile(path) as archive, contextlib.ExitStack() as open_files:
            found = {name.removesuffix(".npy"): name for name in archive.namelist()}
            missing = [name for name in specs if name not in found]
            if missing:
                raise CompileError(
                    f"{path}: has no array for input {missing[0]!r}",
                    f"it holds {', '.join(found) or 'nothing'}",
                )
            members = {
                name: _Member(open_files.enter_context(archive.open(found[name])), name) for name in specs
            }
            _check_counts(path, members)
            for _ in range(next(iter(members.values())).count):
                yield {name: _as_sample(members[name].next(), shape) for name, (shape, _) in specs.items()}
    except (EOFError, OSError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, CompileError):
            raise
        raise CompileError(f"{path}: cannot be read as .npz: {error}") from None


class _Member:
    """An array in an archive, read sample by sample."""

    def __init__(self, file: Any, name: str) -> None:
        self.file = file
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in header:
            raise ValueError(f"array {name!r} has version {version}")
        self.shape, fortran, self.dtype = header[version](file)
        if self.dtype.hasobject:
            raise ValueError(f"array {name!r} holds Python objects")
        self.whole = None
        if fortran and len(self.shape) > 1:  # samples do not follow each other in the file
            data = file.read(int(np.prod(self.shape)) * self.dtype.itemsize)
            self.whole = iter(np.frombuffer(data, self.dtype).reshape(self.shape, order="F"))

    @property
    def count(self) -> int:
        """The samples."""
        return int(self.shape[0])

    def next(self) -> Any:
        """The next sample."""
        if self.whole is not None:
            return next(self.whole)
        size = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        data = self.file.read(size)
        if len(data) != size:
            raise EOFError("it ends early")
        return np.frombuffer(data, self.dtype).reshape(self.shape[1:])


def _check_counts(path: Path, members: Mapping[str, _Member]) -> None:
    first, *others = members
    for name, member in members.items():
        if not member.shape:
            raise CompileError(
                f"{path}: array {name!r} has no axis of samples", "put samples along the first axis"
            )
    for name in others:
        if members[name].count != members[first].count:
            raise CompileError(
                f"{path}: holds {members[first].count} samples for {first!r} and {members[name].count} for {name!r}",
                "put samples along the first axis, as many of each",
            )


def _as_sample(array: Any, shape: tuple[int, ...]) -> Any:
    return array[None] if array.ndim == len(shape) - 1 and shape[0] == 1 else array


def _checked(feeds: Feeds, specs: Mapping[str, tuple[tuple[int, ...], Any]], where: str) -> Feeds:
    checked = {}
    for name, (shape, dtype) in specs.items():
        if name not in feeds:
            raise CompileError(f"{where}: no sample for input {name!r}")
        array = _as_sample(np.asarray(feeds[name]), shape)
        if array.shape != shape:
            raise CompileError(
                f"{where}: a sample for {name!r} has shape {list(array.shape)}; the model wants {list(shape)}"
            )
        try:
            checked[name] = array.astype(dtype)  # a copy: who made it may use the array again for the next
        except (TypeError, ValueError):
            raise CompileError(
                f"{where}: a sample for {name!r} has type {array.dtype}; the model wants {np.dtype(dtype)}"
            ) from None
        if np.issubdtype(dtype, np.floating) and not np.isfinite(checked[name]).all():
            raise CompileError(f"{where}: a sample for {name!r} holds NaN or infinity")
    return checked
