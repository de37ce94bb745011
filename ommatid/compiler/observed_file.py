"""Observations on disk, by the hash of model and data: calibrating again takes no run of the network."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ommatid.compiler.cache_folder import cache_folder
from ommatid.compiler.form import Form
from ommatid.compiler.histogram import BINS, Histogram
from ommatid.compiler.observe import Feeds, Observed, Run, observe
from ommatid.isa.program_file import write_whole

Array = np.ndarray[Any, Any]

#: Raised when what is observed, or how it is stored, changes.
VERSION = 2


def observed_once(
    form: Form,
    names: Iterable[str],
    samples: Callable[[], Iterable[Feeds]],
    run: Run | None = None,
    only_limits: Collection[str] = (),
    each: Callable[[Mapping[str, Array]], None] | None = None,
) -> dict[str, Observed]:
    """As ``observe``, but from the cache if it holds this model with these samples. ``samples`` begins anew.

    Raises:
        CompileError: the samples cannot be used, or onnxruntime cannot run the model.
    """
    names = list(names)
    path = cache_folder() / f"observed-{_key(form, names, only_limits, samples())}.npz"
    if path.exists():
        with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):  # damaged: made again
            return read(path)
    found = observe(form, names, samples(), run, only_limits, each)
    with contextlib.suppress(OSError):  # a cache that cannot be written is no cache
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, to_bytes(found))
    return found


def _key(form: Form, names: list[str], only_limits: Collection[str], samples: Iterable[Feeds]) -> str:
    digest = hashlib.sha256(f"{VERSION} {BINS} {sorted(names)} {sorted(only_limits)}".encode())
    digest.update(form.proto.SerializeToString(deterministic=True))
    for arrays in itertools.chain([form.weights], samples):
        for name, array in sorted(arrays.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def to_bytes(observed: Mapping[str, Observed]) -> bytes:
    """Observations as an ``.npz`` file: of every histogram the bins that are not empty."""
    arrays: dict[str, Array] = {"names": np.array(json.dumps(list(observed)))}
    for i, o in enumerate(observed.values()):
        used = np.flatnonzero(o.histogram.counts)
        arrays |= {
            f"{i}.used": used, f"{i}.counts": o.histogram.counts[used], f"{i}.sums": o.histogram.sums[used],
            f"{i}.limits": np.array([o.histogram.reach, o.histogram.low, o.histogram.high]),
            f"{i}.channels": np.stack([o.channel_low, o.channel_high, o.channel_sum]), f"{i}.count": np.array(o.count),
        }  # fmt: skip
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def read(path: Path) -> dict[str, Observed]:
    """The observations that ``to_bytes`` wrote."""
    found = {}
    with np.load(path, allow_pickle=False) as file:
        for i, name in enumerate(json.loads(str(file["names"]))):
            reach, low, high = (float(v) for v in file[f"{i}.limits"])
            histogram = Histogram(reach, low=low, high=high)
            histogram.counts[file[f"{i}.used"]] = file[f"{i}.counts"]
            histogram.sums[file[f"{i}.used"]] = file[f"{i}.sums"]
            channel_low, channel_high, channel_sum = file[f"{i}.channels"]
            found[name] = Observed(histogram, channel_low, channel_high, channel_sum, int(file[f"{i}.count"]))
    return found
