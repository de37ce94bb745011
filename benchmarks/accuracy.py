"""Accuracy of RapidOCR with each of its networks in our QDQ form, in onnxruntime, beside the float networks.

onnxruntime computes the QDQ form with the NPU's bits up to one step, so that this judges the quantisation alone.
Calibration is on pages of other words than those that are read.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from rich.console import Console
from rich.table import Table

from benchmarks.lines import LINES_A_PAGE, page
from ommatid.compiler.canonicalize import canonicalize
from ommatid.compiler.front import FrontOptions
from ommatid.compiler.model import import_model
from ommatid.compiler.plan import make_plan
from ommatid.compiler.quantize import quantize

Array = np.ndarray[Any, Any]
#: Network: its file, and the shape that all its inputs are brought to.
NETWORKS = {
    "detector": ("ch_PP-OCRv4_det_infer.onnx", (1, 3, 736, 992)),
    "direction": ("ch_ppocr_mobile_v2.0_cls_infer.onnx", (1, 3, 48, 192)),
    "reader": ("ch_PP-OCRv4_rec_infer.onnx", (1, 3, 48, 1280)),
}
READ, CALIBRATED = range(5), range(100, 104)
SAMPLES = {"detector": 4, "direction": 16, "reader": 8}
SCAN = (
    "Region-based segmentation", "Let us first determine markers of the coins and the",
    "background. These markers are pixels that we can label", "unambiguously as either object or background. Here,",
    "the markers are found at the two extreme parts of the", "histogram of grey values:",
)  # fmt: skip


def main() -> None:
    """Print the table."""
    console = Console(width=120)
    fast = bool(os.environ.get("ACCURACY_FAST"))
    read, calibrated = (READ[:1], CALIBRATED[:2]) if fast else (READ, CALIBRATED)
    real = {name: _session(_file(name)) for name in NETWORKS}
    feeds = _gathered(real, [page(seed)[0] for seed in calibrated])
    judged = _gathered(real, [page(seed)[0] for seed in read])
    rounded, decibels = {}, {}
    for name in NETWORKS:
        rounded[name] = _session(_quantised(name, feeds[name][: SAMPLES[name]]))
        decibels[name] = _sqnr_db(real[name], rounded[name], judged[name][: SAMPLES[name]])
    table = Table("networks in 8 bits", "SQNR dB", "CER, lines", "CER, scan", title="RapidOCR")
    rows: list[tuple[str, ...]] = [(), *((name,) for name in NETWORKS), tuple(NETWORKS)]
    for chosen in rows:
        sessions = {n: rounded[n] if n in chosen else real[n] for n in NETWORKS}
        lines = [_errors(sessions, *page(seed)) for seed in read]
        scan = _errors(sessions, _scan(), list(SCAN))
        share = sum(wrong for wrong, _ in lines) / sum(count for _, count in lines)
        level = f"{decibels[chosen[0]]:.1f}" if len(chosen) == 1 else ""
        table.add_row(
            ", ".join(chosen) or "none", level, f"{100 * share:.2f}%", f"{100 * scan[0] / scan[1]:.2f}%"
        )
    console.print(table)
    console.print(
        f"{len(read) * LINES_A_PAGE} lines; a line that is not found counts as all its characters; spaces do not count"
    )


# --- networks ------------------------------------------------------------------------------------------------


def _file(name: str) -> bytes:
    import rapidocr_onnxruntime

    return (Path(rapidocr_onnxruntime.__file__).parent / "models" / NETWORKS[name][0]).read_bytes()


def _quantised(name: str, feeds: list[Array]) -> bytes:
    model = canonicalize(import_model(_file(name), {"x": NETWORKS[name][1]}))
    made = quantize(model, make_plan(model, FrontOptions(calibration=[{"x": x} for x in feeds])))
    result: bytes = ir.to_proto(made).SerializeToString()
    return result


def _session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _sqnr_db(real: Any, rounded: Any, feeds: list[Array]) -> float:
    signal = noise = 0.0
    for x in feeds:
        a, b = (np.asarray(s.run(None, {"x": x})[0], np.float64) for s in (real, rounded))
        signal, noise = signal + float((a**2).sum()), noise + float(((a - b) ** 2).sum())
    return 10 * float(np.log10(signal / max(noise, 1e-30)))


class _Fixed:
    """A session that brings what it is fed to one shape, row by row: zeros at the right, as RapidOCR pads itself."""

    def __init__(self, session: Any, shape: tuple[int, ...], seen: list[Array]) -> None:
        self.session, self.shape, self.seen = session, shape, seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def run(self, names: Any, feeds: dict[str, Array], *rest: Any) -> Any:
        """The outputs for all rows."""
        (key, batch), wide = next(iter(feeds.items())), self.shape[3]
        rows = [np.zeros(self.shape, np.float32) for _ in batch]
        for row, x in zip(rows, batch, strict=True):
            row[0, :, :, : x.shape[-1]] = x[:, :, :wide]
        self.seen += rows
        parts = [self.session.run(names, {key: row}) for row in rows]
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


@contextlib.contextmanager
def _reader(sessions: dict[str, Any], seen: dict[str, list[Array]]) -> Iterator[Any]:
    """RapidOCR with these sessions; what they are fed is added to ``seen``."""
    from rapidocr_onnxruntime import RapidOCR

    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
    made = RapidOCR()
    owners = {
        "detector": made.text_det.infer,
        "direction": made.text_cls.infer,
        "reader": made.text_rec.session,
    }
    for name, owner in owners.items():
        owner.session = _Fixed(sessions[name], NETWORKS[name][1], seen.setdefault(name, []))
    yield made


def _gathered(sessions: dict[str, Any], pages: list[Array]) -> dict[str, list[Array]]:
    """What RapidOCR feeds each network for these pages."""
    seen: dict[str, list[Array]] = {}
    with _reader(sessions, seen) as read:
        for image in pages:
            read(image)
    return seen


# --- text ----------------------------------------------------------------------------------------------------


def _scan() -> Array:
    """scikit-image's scanned page, its last row repeated to the pages' aspect of 4 to 3, uint8 [288, 384, 3]."""
    from skimage import data

    grey = data.page()
    whole = np.pad(grey, ((0, grey.shape[1] * 3 // 4 - grey.shape[0]), (0, 0)), mode="edge")
    return np.stack([whole] * 3, axis=-1)


def _errors(sessions: dict[str, Any], image: Array, texts: list[str]) -> tuple[int, int]:
    """(wrong characters, characters): each line against the nearest that was read, at most all of it."""
    with _reader(sessions, {}) as read:
        result, _ = read(image)
    lines = [row[1].replace(" ", "") for row in result or []]
    wanted = [text.replace(" ", "") for text in texts]
    wrong = sum(min([len(text), *(distance(text, line) for line in lines)]) for text in wanted)
    return wrong, sum(map(len, wanted))


def distance(a: str, b: str) -> int:
    """Characters to insert, delete or replace to make one text the other."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[:], i
        for j, y in enumerate(b, 1):
            row[j] = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (x != y))
    return row[-1]


if __name__ == "__main__":
    main()
