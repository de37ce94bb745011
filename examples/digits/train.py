"""Train the networks on one half of scikit-learn's scanned digits, and write an ONNX file of each.

python -m venv env && env/bin/pip install -r requirements.txt && env/bin/python train.py [residual depthwise transformer]

The other half (``held_out`` in digits.py) is for calibration and for tests.
"""

import sys
from pathlib import Path

import onnx
import torch
from digits import training
from networks import NETWORKS, SIZE
from torch import Tensor, nn

EPOCHS, BATCH = {"residual": 60, "depthwise": 60, "transformer": 200}, 32
HERE = Path(__file__).parent


def train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Adam with a one-cycle rate; images are moved by up to a pixel and a little noise is added."""
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=0.02)
    steps = epochs * (len(images) // BATCH)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    loss = nn.CrossEntropyLoss(label_smoothing=0.05)
    network.train()
    for _ in range(epochs):
        order = torch.randperm(len(images))
        for i in range(len(images) // BATCH):
            chosen = order[BATCH * i : BATCH * (i + 1)]
            x, y = torch.randint(3, (2,)).tolist()
            moved = nn.functional.pad(images[chosen], (1, 1, 1, 1))[:, :, y : y + SIZE, x : x + SIZE]
            batch = moved + 0.03 * torch.randn(BATCH, 1, SIZE, SIZE)
            optimizer.zero_grad()
            loss(network(batch), labels[chosen]).backward()
            optimizer.step()
            rate.step()
    network.eval()


def export(network: nn.Module, image: Tensor, file: Path) -> None:
    """Write an ONNX file without the exporter's notes on where in the Python code each node came from."""
    program = torch.onnx.export(
        network, (image,), input_names=["image"], output_names=["logits"], dynamo=True
    )
    assert program is not None
    model = program.model_proto
    model.doc_string = ""
    for noted in (
        model.graph,
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
    ):
        del noted.metadata_props[:]
        noted.doc_string = ""
    onnx.save(model, file)


def main(*names: str) -> None:
    """Train, write, and say what was learnt."""
    torch.set_num_threads(1)  # such small batches gain nothing, and one thread always sums in the same order
    images, labels = map(torch.from_numpy, training())
    for name in names or NETWORKS:
        torch.manual_seed(0)
        network = NETWORKS[name]()
        train(network, images, labels, EPOCHS[name])
        file = HERE / f"{name}.onnx"
        export(network, images[:1], file)
        with torch.no_grad():
            right = (network(images).argmax(1) == labels).float().mean()
        print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB, {100 * right:.1f}% of its own half")


if __name__ == "__main__":
    main(*sys.argv[1:])
