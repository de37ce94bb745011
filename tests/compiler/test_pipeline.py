"""The list of passes: what each leaves behind as text, the same bytes every time, and errors of the user."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ommatid.compiler.errors import CompileError
from ommatid.compiler.origins import Source
from ommatid.compiler.pipeline import compile_model, compile_network
from ommatid.isa.assembly import disassemble
from ommatid.isa.program import Program
from ommatid.isa.program_file import to_bytes
from ommatid.isa.target import TargetError, load_target
from ommatid.isa.verifier import verify
from tests import networks
from tests.compiler.nets import Net, table
from tests.golden import check_golden

SAMPLES = [networks.inputs(seed) for seed in range(2)]


PASSES = ("imported", "canonical", "quantized", "network", "fused", "scheduled", "program")


def test_dump_of_every_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMMATID_DUMP", str(tmp_path / "made" / "here"))
    compile_model(networks.with_host_part(), target="ommatid-256", calibration=SAMPLES)
    files = sorted((tmp_path / "made" / "here").iterdir())
    assert [file.name for file in files] == [f"{i:02d}-{name}.txt" for i, name in enumerate(PASSES)]
    check_golden(__file__, "network.txt", files[3].read_text(encoding="utf-8"))
    compile_model(networks.convolution(), target="ommatid-256", calibration=SAMPLES)
    files = sorted((tmp_path / "made" / "here").iterdir())[len(PASSES) :]
    assert [file.name for file in files] == [f"{i + 7:02d}-{name}.txt" for i, name in enumerate(PASSES)]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files[:-1])
    check_golden(__file__, "convolutions.txt", text)


def test_the_program_of_a_small_network() -> None:
    """Loads of constants and input, convolution and map, store, end: a change of code generation shows here."""
    program = compile_model(networks.convolution(), target="ommatid-256", calibration=SAMPLES)
    text = disassemble(program).partition("\n\n")[0]
    check_golden(__file__, "program.txt", text.replace(" a_factor=0.0", "") + "\n")


def test_optimize_0_keeps_layers_apart() -> None:
    apart, fused = (
        compile_model(networks.convolution(), optimize=level, calibration=SAMPLES) for level in (0, 2)
    )
    assert len(apart.layers) >= len(fused.layers) and apart.info["optimize"] == 0
    assert verify(apart) == [] and apart.macs == fused.macs


@pytest.mark.parametrize("target", ["ommatid-256", "ommatid-4k"])
def test_no_level_is_slower_than_layers_apart(target: str) -> None:
    """Judged by whoever estimates: one who likes many layers gets the layers apart at every level."""
    net, chip = Net(x=(1, 8, 8, 16)), load_target(target)
    net.map(net.conv("x", "a", 16), "b", table(1))
    nodes = Source("node a", "Conv", ("x",), ("a",)), Source("node b", "Sin", ("a",), ("b",))
    network = dataclasses.replace(net.network("b"), sources=nodes)

    def many(program: Program) -> np.ndarray[Any, Any]:
        return 1 / np.unique(program.layer_of).size * np.ones(1)

    def few(program: Program) -> np.ndarray[Any, Any]:
        return np.unique(program.layer_of).size * np.ones(1)

    apart = compile_network(network, chip, 0)
    for level in (1, 2):
        assert len(compile_network(network, chip, level, estimate=many).layers) == len(apart.layers) == 2
        assert len(compile_network(network, chip, level, estimate=few).layers) == 1


SCRIPT = """
from hashlib import sha256
from ommatid.compiler.pipeline import compile_model
from ommatid.isa.program_file import to_bytes
from tests import networks
samples = [networks.inputs(seed) for seed in range(2)]
print(sha256(to_bytes(compile_model(networks.with_host_part(), calibration=samples))).hexdigest())
"""


def test_the_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    made = [to_bytes(compile_model(networks.with_host_part(), calibration=SAMPLES)) for _ in range(2)]
    assert made[0] == made[1]
    environment = os.environ | {"PYTHONHASHSEED": "12345", "OMMATID_CACHE_DIR": str(tmp_path)}
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert process.stdout.split() == [sha256(made[0]).hexdigest()], process.stderr


def test_what_a_program_says_of_itself() -> None:
    program = compile_model(networks.convolution(), target="ommatid-256", info={"by": "a test"})
    assert program.target == load_target("ommatid-256")
    assert program.info["by"] == "a test" and program.info["optimize"] == 2
    assert program.info["calibration"].startswith("none given")
    assert 0 < program.info["sram_peak_bytes"] <= program.target.sram_bytes
    assert program.metadata == {"alphabet": "abc\ndef"}
    assert program.inputs[0].shape == (1, 3, 8, 8) and program.outputs[0].shape == (1, 5, 8, 8)
    assert "calibration" not in compile_model(networks.convolution(), calibration=SAMPLES).info


def test_constants_lie_at_the_begin_and_are_not_repeated() -> None:
    made = networks.convolution()
    program = compile_model(made, target="ommatid-256", calibration=SAMPLES)
    assert len(program.constants) % 64 == 0 and program.dram_bytes % 64 == 0
    symbols = program.symbols
    fixed = symbols[(symbols["memory"] == 0) & (symbols["role"] == 0)]
    assert (fixed["address"] + fixed["bytes"] <= len(program.constants)).all()
    order = np.argsort(fixed["address"])
    ends = (fixed["address"] + fixed["bytes"])[order]
    assert (ends[:-1] <= fixed["address"][order][1:]).all()


def test_a_chip_that_is_too_small() -> None:
    tiny = dataclasses.replace(load_target("ommatid-256"), name="tiny", dram_mib=1)
    big = networks.convolution(size=512)
    with pytest.raises(CompileError, match="DRAM") as caught:
        compile_model(big, target=tiny, calibration=[networks.inputs(0, size=512)])
    assert (
        "tiny" in str(caught.value) and "dram_mib" in caught.value.hint
    ) or "more DRAM" in caught.value.hint


def test_wrong_options() -> None:
    with pytest.raises(TargetError, match="unknown target 'none'"):
        compile_model(networks.convolution(), target="none")
    with pytest.raises(CompileError, match="unknown calibration method 'mean'"):
        compile_model(networks.convolution(), method="mean")
    with pytest.raises(CompileError, match="cannot run on the NPU, the first 'celu'") as caught:
        compile_model(networks.with_host_part(), cpu=False, calibration=SAMPLES)
    assert caught.value.node == "celu"
