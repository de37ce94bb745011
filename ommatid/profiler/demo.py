"""The demo: RapidOCR reads a scanned page while its text detector runs as NPU instructions.

RapidOCR's code is used as it is; only the class that it makes its detector's session from is replaced.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ommatid.compiler.cache_folder import cache_folder
from ommatid.isa.program import Program
from ommatid.isa.program_file import write_whole
from ommatid.profiler.profile import Profile, profile
from ommatid.runtime.session import InferenceSession

Array = np.ndarray[Any, Any]
DETECTOR = "ch_PP-OCRv4_det_infer.onnx"
#: What RapidOCR makes of the 191 x 384 page before it calls the detector.
SHAPE = (1, 3, 736, 1472)
#: Ranges by which the detector keeps the page's lines in 8 bits. Two lines score 0.501 and 0.512 in float against
#: RapidOCR's threshold of 0.5; of the percentiles from 99.9 to 99.999 this one leaves both the most room.
RECIPE: dict[str, Any] = {"activations": "uint8", "method": "percentile", "percentile": 99.996}


class DemoError(ValueError):
    """The demo's extra packages are missing; ``hint`` says how to get them."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class DemoResult:
    """What the demo read and measured."""

    lines: list[str]
    expected: list[str]
    boxes: list[Any]
    profile: Profile
    session: InferenceSession
    picture: str
    target: str
    npu_macs_share: float

    def facts(self) -> dict[str, Any]:
        """The keys of ``demo --json``."""
        return {
            "lines": self.lines,
            "expected": self.expected,
            "cycles": self.session.cycles,
            "latency_ms": self.session.cycles / self.session.program.target.clock_mhz / 1e3,
            "utilization": self.profile.utilization,
            "picture": self.picture,
            "program": self.session.program.target.name,
            "npu_macs_share": self.npu_macs_share,
        }


def page() -> Array:
    """scikit-image's scanned page with three channels, uint8 [191, 384, 3]."""
    from skimage import data

    grey: Array = data.page()  # type: ignore[no-untyped-call]
    return np.stack([grey] * 3, axis=-1)


def run_demo(picture: str, target: str = "ommatid-1k") -> DemoResult:
    """Compile the detector (once; then from the cache), read the page, and draw its boxes into ``picture``.

    Raises:
        DemoError: the ``[demo]`` extra is not installed.
        OSError: the picture cannot be written.
    """
    _check_packages()
    expected = read(page(), {})[1]
    session = detector_session(target)
    boxes, lines = read(page(), {DETECTOR: session})
    write_whole(picture, drawn(page(), boxes))
    return DemoResult(
        lines,
        expected,
        boxes,
        profile(session.program),
        session,
        picture,
        session.program.target.name,
        npu_macs_share(session.program),
    )


def _check_packages() -> None:
    try:
        import rapidocr_onnxruntime  # noqa: F401
        import skimage  # noqa: F401
    except ImportError as error:
        raise DemoError(
            f"the demo needs the package {error.name!r}", 'pip install "ommatid[demo]" (Python 3.11 or 3.12)'
        ) from None


def model_path(file: str) -> Path:
    """An ONNX file inside RapidOCR's package."""
    import rapidocr_onnxruntime

    return Path(rapidocr_onnxruntime.__file__).parent / "models" / file


def detector_session(target: str) -> InferenceSession:
    """The detector on the NPU, calibrated on what RapidOCR feeds it for views of the page."""
    folder = cache_folder() / "demo-calibration"
    folder.mkdir(parents=True, exist_ok=True)
    for number, view in enumerate(calibration_views()):
        path = folder / f"{number}.npy"
        if not path.exists():
            buffer = io.BytesIO()
            np.save(buffer, detector_input(view))
            write_whole(path, buffer.getvalue())
    return InferenceSession(
        model_path(DETECTOR), target=target, shapes={"x": SHAPE}, calibration=str(folder), **RECIPE
    )


def calibration_views() -> list[Array]:
    """The page as it is, upside down, and brighter."""
    image = page()
    return [image, image[::-1, ::-1].copy(), np.clip(image.astype(np.int32) + 30, 0, 255).astype(np.uint8)]


class Recorder:
    """A session that keeps what it is fed."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.fed: list[Array] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def run(self, names: Any, feeds: dict[str, Array], *rest: Any) -> Any:
        """The session's own results."""
        self.fed += feeds.values()
        return self.session.run(names, feeds, *rest)


def detector_input(image: Array) -> Array:
    """What RapidOCR feeds its detector for a page, float32 of SHAPE."""
    recorder = Recorder(float_session(DETECTOR))
    read(image, {DETECTOR: recorder})
    return recorder.fed[-1].astype(np.float32)


def float_session(file: str) -> Any:
    """A network of RapidOCR's in onnxruntime."""
    import onnxruntime

    return onnxruntime.InferenceSession(str(model_path(file)), providers=["CPUExecutionProvider"])


def reader(sessions: Mapping[str, Any]) -> Any:
    """RapidOCR as it is, but for the class of its sessions: it makes these, by the names of their files, and its own."""
    from rapidocr_onnxruntime import RapidOCR
    from rapidocr_onnxruntime.utils import infer_engine

    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
    original = infer_engine.InferenceSession

    def make(path: Any, *args: Any, **kwargs: Any) -> Any:
        found = sessions.get(Path(str(path)).name)
        return original(path, *args, **kwargs) if found is None else found

    infer_engine.InferenceSession = make
    try:
        return RapidOCR()
    finally:
        infer_engine.InferenceSession = original


def read(image: Array, sessions: Mapping[str, Any]) -> tuple[list[Any], list[str]]:
    """RapidOCR's boxes and lines of text, with these sessions."""
    rows = reader(sessions)(image)[0] or []
    return [row[0] for row in rows], [row[1] for row in rows]


def drawn(image: Array, boxes: list[Any]) -> bytes:
    """The image three times as large with the boxes drawn, as PNG."""
    from PIL import Image, ImageDraw

    scale = 3
    canvas = Image.fromarray(image).resize(
        (image.shape[1] * scale, image.shape[0] * scale), Image.Resampling.LANCZOS
    )
    draw = ImageDraw.Draw(canvas)
    for box in boxes:
        points = [(x * scale, y * scale) for x, y in box]
        draw.line([*points, points[0]], fill=(220, 30, 60), width=4)
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def npu_macs_share(program: Program) -> float:
    """The part of the network's multiply-accumulates that runs on the NPU, 0 to 1."""
    models = [onnx.load_from_string(p.model) for p in program.partitions if p.model]
    on_cpu = sum(sum(node_macs(model).values()) for model in models)
    return program.macs / max(program.macs + on_cpu, 1)


def node_macs(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-accumulates of the convolutions and matrix products of a model of fixed shapes, by their names."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    found = {}
    for node in (n for n in graph.node if n.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")):
        data, weights, result = (shapes[name] for name in (*node.input[:2], node.output[0]))
        if node.op_type == "Conv":
            found[node.name] = math.prod(result) * math.prod(weights[1:])
        elif node.op_type == "ConvTranspose":
            found[node.name] = math.prod(data) * math.prod(weights[1:])
        else:
            transposed = any(a.name == "transA" and a.i for a in node.attribute)
            found[node.name] = math.prod(result) * data[-2 if transposed else -1]
    return found
