"""Networks times chips: each compiled anew and simulated, by a pool of processes or a Dask cluster.

A point is kept in the cache as soon as it is computed, under a hash of the model, the options, the chip and the code:
a run that was interrupted goes on, and one more value computes only what is new.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import io
import itertools
import json
import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ommatid.compiler.cache_folder import cache_folder
from ommatid.compiler.errors import CompileError
from ommatid.compiler.front import FrontOptions, build_network
from ommatid.compiler.layers import Network
from ommatid.isa.program_file import write_whole
from ommatid.isa.target import Target, TargetError
from ommatid.profiler.extras import needed
from ommatid.profiler.profile import profile
from ommatid.runtime.cache import code_digest, program_key
from ommatid.runtime.compile import compile_network
from ommatid.simulator.energy import area

#: How often a pool may break in a row without a single result.
PATIENCE = 3


@dataclass(frozen=True)
class Job:
    """A point to compute; ``key`` is what it is kept under."""

    model: str
    target: Target
    optimize: int
    key: str


@dataclass(frozen=True)
class Point:
    """A network on a chip. ``pareto``: no other of the network is better in time, energy and area at once; ``reason``:
    why there are no figures."""

    network: str
    target: str
    settings: dict[str, float]
    area_mm2: float
    cycles: int | None = None
    latency_ms: float | None = None
    energy_uj: float | None = None
    pareto: bool = False
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The keys of a point of ``sweep`` (design 7)."""
        keys = (
            "network",
            "target",
            "settings",
            "cycles",
            "latency_ms",
            "energy_uj",
            "area_mm2",
            "pareto",
            "reason",
        )
        return {key: getattr(self, key) for key in keys}


@dataclass(frozen=True)
class Sweep:
    """All points, and how many of them were computed now."""

    points: tuple[Point, ...]
    computed: int


def chips(
    base: Target, settings: Mapping[str, Sequence[float]]
) -> list[tuple[dict[str, float], Target | TargetError]]:
    """Every combination of the values, and the chip that has them (or why there can be none)."""
    found: list[tuple[dict[str, float], Target | TargetError]] = []
    for values in itertools.product(*settings.values()):
        own = dict(zip(settings, values, strict=True))
        name = f"{base.name}, {', '.join(f'{k} {v:g}' for k, v in own.items())}" if own else base.name
        try:
            found.append((own, dataclasses.replace(base, name=name, **own)))  # type: ignore[arg-type]
        except TargetError as error:
            found.append((own, error))
    return found


def sweep(
    models: Sequence[str], base: Target, settings: Mapping[str, Sequence[float]], options: dict[str, Any] | None = None,
    optimize: int = 2, processes: int | None = None, scheduler: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Sweep:  # fmt: skip
    """Every network on every chip.

    Args:
        options: plain options of FrontOptions: shapes, calibration, method, ...
        processes: of the pool (None: one for each CPU that we may use).
        scheduler: the address of a Dask scheduler; its workers get the networks from here.
        progress: is told how many points are done, of how many.

    Raises:
        CompileError: a model cannot be used. MissingExtra: Dask distributed is not installed.
    """
    plain = options or {}
    places: list[tuple[str, dict[str, float], Target | TargetError, Job | None]] = []
    for model in models:
        for own, chip in chips(base, settings):
            job = None if isinstance(chip, TargetError) else _job(model, chip, plain, optimize)
            places.append((model, own, chip, job))
    jobs = {job.key: job for *_, job in places if job}
    results = {key: found for key in jobs if (found := _kept(key)) is not None}
    todo = [job for key, job in jobs.items() if key not in results]

    def build() -> dict[str, Network]:  # the same for every chip
        return {m: build_network(m, FrontOptions(**plain)) for m in dict.fromkeys(job.model for job in todo)}

    run = _on_cluster(todo, build, scheduler) if scheduler else _in_pool(todo, build, processes)
    for key, found in run:
        results[key] = found
        _keep(key, found)
        if progress:
            progress(len(results), len(jobs))
    points = [_point(*place, results) for place in places]
    return Sweep(tuple(mark_pareto(points)), len(todo))


def _point(
    model: str, own: dict[str, float], chip: Target | TargetError, job: Job | None, results: Mapping[str, Any]
) -> Point:
    name = Path(model).stem
    if job is None or isinstance(chip, TargetError):
        return Point(name, "", own, 0.0, reason=str(chip))
    return Point(name, chip.name, own, area(chip).total_mm2, **results[job.key])


def mark_pareto(points: Sequence[Point]) -> list[Point]:
    """The points, each told whether another of its network beats it in time, energy and area (one of them, no worse
    in the others)."""

    def beaten(p: Point, q: Point) -> bool:
        ours, theirs = ((x.latency_ms or 0, x.energy_uj or 0, x.area_mm2) for x in (p, q))
        return theirs != ours and all(b <= a for a, b in zip(ours, theirs, strict=True))

    good = [p for p in points if p.cycles is not None]
    return [
        dataclasses.replace(p, pareto=p.cycles is not None and not any(beaten(p, q) for q in good if q.network == p.network))
        for p in points
    ]  # fmt: skip


# --- one point ------------------------------------------------------------------------------------------------


def _job(model: str, chip: Target, options: dict[str, Any], optimize: int) -> Job:
    key = program_key(model, {**options, "target": chip, "optimize": optimize})
    if key is None:
        raise CompileError(f"{model}: cannot be read", "check the path, and that options are plain data")
    return Job(model, chip, optimize, f"{key}-{code_digest()[:16]}")


def compute(job: Job, network: Network) -> tuple[str, dict[str, Any]]:
    """A point's key and figures; what cannot be compiled has the reason instead."""
    try:
        result = profile(compile_network(network, job.target, job.optimize, processes=1))
    except (CompileError, TargetError) as error:
        return job.key, {"reason": str(error)}
    energy = sum(result.energy_uj.values())
    return job.key, {"cycles": result.cycles, "latency_ms": result.latency_ms, "energy_uj": energy}


# --- who computes ---------------------------------------------------------------------------------------------


def _ready() -> None:
    """A pool starts a process for each task that finds none idle: with as many of these, all processes import what
    they need while the networks are built."""


@functools.cache
def _stored(path: str) -> Network:
    """A network from a file of this program's own, once in each worker."""
    found: Network = pickle.loads(Path(path).read_bytes())
    return found


def _compute_stored(job: Job, path: str) -> tuple[str, dict[str, Any]]:
    return compute(job, _stored(path))


def _in_pool(
    jobs: Sequence[Job], build: Callable[[], Mapping[str, Network]], processes: int | None
) -> Iterator[tuple[str, Any]]:
    """Results as they come; a worker that dies is replaced, and its point computed again.

    Raises:
        RuntimeError: workers die again and again.
    """
    many = processes or len(os.sched_getaffinity(0))
    left, patience = {job.key: job for job in jobs}, PATIENCE
    context = multiprocessing.get_context("spawn")
    paths: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        while left:
            before = len(left)
            workers = min(many, len(left))
            pool = ProcessPoolExecutor(workers, context)
            with pool, contextlib.suppress(BrokenProcessPool):
                for _ in range(workers):
                    pool.submit(_ready)
                paths = paths or _store(build(), Path(folder))
                tasks = [pool.submit(_compute_stored, job, paths[job.model]) for job in left.values()]
                for future in as_completed(tasks):
                    key, found = future.result()
                    del left[key]
                    yield key, found
            patience = PATIENCE if len(left) < before else patience - 1
            if not patience:
                raise RuntimeError(f"the processes of the pool died {PATIENCE} times without a result")


def _store(networks: Mapping[str, Network], folder: Path) -> dict[str, str]:
    """Write the networks for the workers; the path of each."""
    paths = {model: folder / f"{i}.pickle" for i, model in enumerate(networks)}
    for model, path in paths.items():
        path.write_bytes(pickle.dumps(networks[model]))
    return {model: str(path) for model, path in paths.items()}


def _on_cluster(
    jobs: Sequence[Job], build: Callable[[], Mapping[str, Network]], scheduler: str
) -> Iterator[tuple[str, Any]]:
    """Results as they come from a Dask cluster, which computes the points of workers that died again."""
    distributed = needed("distributed", "sweep")
    with distributed.Client(scheduler) as client:
        there = {model: client.scatter(network, broadcast=True) for model, network in build().items()}
        futures = [
            client.submit(compute, job, there[job.model], key=job.key, retries=PATIENCE) for job in jobs
        ]
        for future in distributed.as_completed(futures):
            yield future.result()


# --- what is kept ---------------------------------------------------------------------------------------------


def _kept(key: str) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):  # a damaged entry is made again
        return json.loads((cache_folder() / "sweep" / f"{key}.json").read_text(encoding="utf-8"))
    return None


def _keep(key: str, found: dict[str, Any]) -> None:
    path = cache_folder() / "sweep" / f"{key}.json"
    with contextlib.suppress(OSError):  # a cache that cannot be written is no cache
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(found).encode())


# --- views ----------------------------------------------------------------------------------------------------


def sweep_csv(found: Sweep) -> str:
    """A line for each point, a column for each setting."""
    names = list(dict.fromkeys(name for point in found.points for name in point.settings))
    figures = ("cycles", "latency_ms", "energy_uj", "area_mm2", "pareto", "reason")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["network", "target", *names, *figures])
    for p in found.points:
        row = [getattr(p, key) for key in figures]
        writer.writerow(
            [
                p.network,
                p.target,
                *(p.settings.get(n, "") for n in names),
                *("" if v is None else v for v in row),
            ]
        )
    return buffer.getvalue()


def sweep_html(found: Sweep) -> str:
    """The Pareto plot as a page that needs nothing else.

    Raises:
        MissingExtra: the packages of the extra ``report`` are not installed.
    """
    jinja2, offline = needed("jinja2", "report"), needed("plotly.offline", "report")
    folder = Path(__file__).parent / "page"
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), autoescape=True)
    page = environment.get_template("sweep.html.j2").render(
        css=(folder / "page.css").read_text(encoding="utf-8"),
        script=(folder / "sweep.js").read_text(encoding="utf-8"),
        plotly=offline.get_plotlyjs(),
        points=[point.to_dict() for point in found.points],
    )
    return str(page)
