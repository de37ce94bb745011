"""Compile an ONNX vision network, run it on one picture or random input, and print where the cycles go.

python examples/compile_and_run.py model.onnx [photo.jpg] [input=1,3,224,224]
"""

import sys

import numpy as np
from rich.console import Console

import ommatid
from ommatid.profiler.table import show
from ommatid.runtime.images import Preprocess


def main(model: str, *rest: str) -> None:
    """Compile, run, profile."""
    shapes = {}
    for argument in rest:
        if "=" in argument:
            name, _, dims = argument.partition("=")
            shapes[name] = tuple(int(d) for d in dims.split(","))
    pictures = [argument for argument in rest if "=" not in argument]
    program = ommatid.compile(model, shapes=shapes)
    session = ommatid.InferenceSession(program)
    port = session.get_inputs()[0]
    shape = tuple(port.shape)
    array = (
        Preprocess()(pictures[0], shape) if pictures else np.random.default_rng(0).random(shape, np.float32)
    )
    for output, value in zip(session.get_outputs(), session.run(None, {port.name: array}), strict=True):
        print(output.name, value.dtype, value.shape)
    show(ommatid.profile(program), Console(), most=10)


if __name__ == "__main__":
    main(*sys.argv[1:])
