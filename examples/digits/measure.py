"""What 8 bits cost on scanned digits that the networks never saw: top-1 of onnxruntime in float and of the NPU.

python examples/digits/measure.py [residual depthwise transformer]
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime

import ommatid

sys.path.insert(0, str(Path(__file__).parent))
from digits import held_out

HERE = Path(__file__).parent
NETWORKS = ("residual", "depthwise", "transformer")
SPLITS = 5


def top1(name: str, seed: int, **options: object) -> tuple[float, float]:
    """Percent of a split's test images that (onnxruntime in float, the NPU) classify rightly.

    The NPU's ranges are found on the split's calibration images; ``options`` are those of ``ommatid.compile``.
    """
    model = HERE / f"{name}.onnx"
    calibration, (images, labels) = held_out(seed)
    program = ommatid.compile(model, calibration=[{"image": image[None]} for image in calibration], **options)
    reference = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    npu = ommatid.InferenceSession(program)
    right = []
    for session in (reference, npu):
        logits = [session.run(None, {"image": image[None]})[0] for image in images]
        right.append(100 * float(np.mean(np.concatenate(logits).argmax(1) == labels)))
    return right[0], right[1]


def main(*names: str) -> None:
    """Print a line for each network."""
    for name in names or NETWORKS:
        float32, npu = np.mean([top1(name, seed) for seed in range(SPLITS)], 0)
        print(
            f"{name:12} float {float32:.2f}%  NPU {npu:.2f}%  lost {float32 - npu:.2f} points, mean of {SPLITS} splits"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
