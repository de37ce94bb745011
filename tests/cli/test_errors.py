"""Bad input: the right exit status, one ``error:`` line naming the culprit, no traceback, no partial file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from ommatid.isa.program_file import load, save
from tests import networks

Path_ = Path


def refused(ran: Any, culprit: str, status: int = 2) -> None:
    """The command failed as the design says."""
    lines = ran.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert ran.status == status, (ran.out, ran.err)
    assert len(errors) == 1 and culprit in errors[0], ran.err
    assert "Traceback" not in ran.err and "Traceback" not in ran.out
    assert not list(Path.cwd().glob("*.omm")) and not list(Path.cwd().glob(".*"))


def write(name: str, data: bytes | onnx.ModelProto) -> str:
    """A file in the current folder."""
    Path(name).write_bytes(data if isinstance(data, bytes) else data.SerializeToString())
    return name


# --- models ----------------------------------------------------------------------------------------------


def test_truncated_model(ommatid: Any) -> None:
    data = networks.convolution().SerializeToString()
    for part in (len(data) // 3, len(data) // 2, len(data) - 1):
        refused(ommatid("compile", write("cut.onnx", data[:part])), "cut.onnx")


def test_empty_file(ommatid: Any) -> None:
    refused(ommatid("compile", write("empty.onnx", b"")), "empty.onnx")


def test_random_bytes(ommatid: Any) -> None:
    generator = np.random.default_rng(0)
    for size in (1, 10, 1000, 100_000):
        refused(ommatid("compile", write("noise.onnx", generator.bytes(size))), "noise.onnx")


def test_folder(ommatid: Any) -> None:
    Path("folder.onnx").mkdir()
    refused(ommatid("compile", "folder.onnx"), "folder.onnx")


def test_absent_file(ommatid: Any) -> None:
    for command in ("compile", "check", "run", "profile", "verify", "inspect", "disasm", "asm"):
        refused(ommatid(command, "absent.file"), "absent.file")


def test_unknown_operator(ommatid: Any) -> None:
    model = networks.model(
        [helper.make_node("Frobnicate", ["x"], ["y"], "strange")], {"x": [1, 3, 4, 4]}, {"y": None}
    )
    refused(ommatid("compile", write("m.onnx", model)), "Frobnicate")


def test_dangling_edge(ommatid: Any) -> None:
    model = networks.model(
        [helper.make_node("Relu", ["nobody"], ["y"], "r")], {"x": [1, 3, 4, 4]}, {"y": None}
    )
    refused(ommatid("compile", write("m.onnx", model)), "nobody")


def test_zero_sized_dimension(ommatid: Any) -> None:
    model = networks.model(
        [helper.make_node("Relu", ["x"], ["y"], "r")], {"x": [1, 3, 0, 4]}, {"y": [1, 3, 0, 4]}
    )
    refused(ommatid("compile", write("m.onnx", model)), "'x'")


def test_dynamic_shape(ommatid: Any) -> None:
    model = networks.convolution(batch="batch")
    ran = ommatid("compile", write("m.onnx", model))
    refused(ran, "'x'")
    assert "--shape" in ran.err


def test_wrong_shape_options(ommatid: Any) -> None:
    write("m.onnx", networks.convolution(batch="batch"))
    refused(ommatid("compile", "m.onnx", "--shape", "z=1,3,8,8"), "'z'")
    refused(ommatid("compile", "m.onnx", "--shape", "x=1,3"), "'x'")
    refused(ommatid("compile", "m.onnx", "--shape", "x=1,3,8,big"), "x=1,3,8,big")
    refused(ommatid("compile", "m.onnx", "--shape", "x=1,3,8,-8"), "x=1,3,8,-8")


def test_nan_weight(ommatid: Any) -> None:
    model = networks.convolution()
    weights = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weights[0, 0, 0, 0] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))
    refused(ommatid("compile", write("m.onnx", model)), "'w'")


def quantised(scale: float) -> onnx.ModelProto:
    """Two roundings of x around a Relu, the first of this scale."""
    constants = {"s": np.float32(scale), "z": np.uint8(0), "t": np.float32(0.1)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "d"),
        helper.make_node("Relu", ["d"], ["r"], "relu"),
        helper.make_node("QuantizeLinear", ["r", "t", "z"], ["p"], "p"),
        helper.make_node("DequantizeLinear", ["p", "t", "z"], ["y"], "y"),
    ]
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    return networks.model(nodes, {"x": [1, 3, 4, 4]}, {"y": [1, 3, 4, 4]}, arrays)


@pytest.mark.parametrize("scale", [np.inf, np.nan, 0.0, -1.0])
def test_unusable_scale(ommatid: Any, scale: float) -> None:
    refused(ommatid("compile", write("m.onnx", quantised(scale))), "'s'")


def test_model_larger_than_dram(ommatid: Any, tmp_path: Path) -> None:
    ran = ommatid("targets", "--json")
    table = next(t for t in ran.json["targets"] if t["name"] == "ommatid-256")
    lines = [f"{k} = {json.dumps(v)}" for k, v in (table | {"name": "tiny", "dram_mib": 1}).items()]
    Path("tiny.toml").write_text("\n".join(lines))
    generator = np.random.default_rng(0)
    weights = generator.standard_normal((1024, 2048, 1, 1)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], "wide")
    model = networks.model([node], {"x": [1, 2048, 1, 1]}, {"y": [1, 1024, 1, 1]}, {"w": weights})
    refused(ommatid("compile", write("m.onnx", model), "--target", "tiny.toml"), "tiny")


def damaged() -> dict[str, onnx.ModelProto]:
    """Models that say what cannot be, by the culprit that the error names."""
    arity, attribute, twice, dims, kind, empty, outputs, infinite = (networks.convolution() for _ in range(8))
    arity.graph.node[1].input.append("x")
    attribute.graph.node[1].attribute.append(helper.make_attribute("bogus", 3))
    twice.graph.node.append(twice.graph.node[0])
    dims.graph.initializer[0].dims[0] = 9
    kind.graph.initializer[0].data_type = 77
    empty.graph.initializer[0].ClearField("raw_data")
    del outputs.graph.output[:]
    huge = np.full((8, 3, 3, 3), 1e38, np.float32)
    infinite.graph.initializer[0].CopyFrom(numpy_helper.from_array(huge, "w"))
    return {
        "'relu'": arity, "bogus": attribute, "'c'": twice, "'w' is damaged": dims, "type 77": kind,
        "'w'": empty, "no output": outputs, "becomes infinite": infinite,
    }  # fmt: skip


def test_damaged_models(ommatid: Any) -> None:
    for culprit, model in damaged().items():
        refused(ommatid("compile", write("m.onnx", model)), culprit)


def test_absent_external_data(ommatid: Any) -> None:
    onnx.save(
        networks.convolution(), "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0
    )
    Path("m.bin").unlink()
    refused(ommatid("compile", "m.onnx"), "m.onnx")


# --- calibration and targets -------------------------------------------------------------------------------


def test_calibration(ommatid: Any, files: Path) -> None:
    model = files / "model.onnx"
    refused(ommatid("compile", model, "--calibration", "nowhere"), "nowhere")
    Path("nothing").mkdir()
    refused(ommatid("compile", model, "--calibration", "nothing"), "nothing")
    np.savez("wrong.npz", x=np.zeros((2, 3, 9, 9), np.float32))
    refused(ommatid("compile", model, "--calibration", "wrong.npz"), "wrong.npz")
    np.savez("other.npz", z=np.zeros((2, 3, 8, 8), np.float32))
    refused(ommatid("compile", model, "--calibration", "other.npz"), "other.npz")
    write("broken.npz", b"not a zip file")
    refused(ommatid("compile", model, "--calibration", "broken.npz"), "broken.npz")
    Path("pictures").mkdir()
    write("pictures/a.png", b"not a picture")
    refused(ommatid("compile", model, "--calibration", "pictures"), "a.png")


def test_unknown_target(ommatid: Any, files: Path) -> None:
    refused(ommatid("compile", files / "model.onnx", "--target", "ommatid-9k"), "ommatid-9k")


@pytest.mark.parametrize("text", ["not toml [", 'name = "x"\n', 'name = "x"\ncores = "many"\n', "\xff\xfe"])
def test_malformed_target(ommatid: Any, files: Path, text: str) -> None:
    write("chip.toml", text.encode("latin-1"))
    refused(ommatid("compile", files / "model.onnx", "--target", "chip.toml"), "chip.toml")


def test_unwritable_output(ommatid: Any, files: Path) -> None:
    refused(ommatid("compile", files / "model.onnx", "-o", "no/such/folder/m.omm"), "no/such/folder")
    Path("taken").mkdir()
    refused(ommatid("compile", files / "model.onnx", "-o", "taken"), "taken")
    write("file", b"")
    refused(ommatid("run", files / "model.omm", "-i", files / "x.npy", "-o", "file"), "file")


# --- running ----------------------------------------------------------------------------------------------


def test_wrong_feeds(ommatid: Any, files: Path) -> None:
    program = files / "model.omm"
    x = networks.inputs()["x"]
    np.save("double.npy", x.astype(np.float64))
    refused(ommatid("run", program, "-i", "double.npy"), "float64")
    refused(ommatid("run", program), "'x'")
    np.save("small.npy", x[:, :, :7])
    refused(ommatid("run", program, "-i", "small.npy"), "[1, 3, 7, 8]")
    np.savez("other.npz", z=x)
    refused(ommatid("run", program, "-i", "other.npz"), "'z'")
    write("bad.npy", b"\x93NUMPY")
    refused(ommatid("run", program, "-i", "bad.npy"), "bad.npy")
    write("bad.png", b"\x89PNG")
    refused(ommatid("run", program, "-i", "bad.png"), "bad.png")


# --- programs ----------------------------------------------------------------------------------------------


def test_newer_version(ommatid: Any, files: Path, monkeypatch: Any) -> None:
    from ommatid.isa import program_file

    program = load(files / "model.omm")
    with monkeypatch.context() as later:
        later.setattr(program_file, "FORMAT_VERSION", program_file.FORMAT_VERSION + 1)
        save(program, "newer.program")
    ran = ommatid("run", "newer.program", "-i", files / "x.npy")
    refused(ran, "newer.program")
    assert "upgrade" in ran.err


def test_altered_programs(ommatid: Any, files: Path) -> None:
    data = (files / "model.omm").read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(25):
        changed = bytearray(data)
        changed[generator.integers(len(data))] ^= 1 << int(generator.integers(8))
        refused(ommatid("verify", write("altered.program", bytes(changed))), "altered.program")
    for length in generator.integers(0, len(data), 25):
        refused(ommatid("verify", write("cut.program", data[:length])), "cut.program")


def test_a_model_is_not_a_program(ommatid: Any, files: Path) -> None:
    refused(ommatid("run", files / "model.onnx", "-i", files / "x.npy"), "model.onnx")


def test_assembly_that_is_none(ommatid: Any) -> None:
    refused(ommatid("asm", write("a.s", b"this is no assembly\n"), "-o", "a.program"), "a.s")
    refused(ommatid("asm", write("b.s", b"\xff\xfe\x00"), "-o", "b.program"), "b.s")


# --- how errors look ---------------------------------------------------------------------------------------


def test_errors_as_json(ommatid: Any) -> None:
    ran = ommatid("compile", "absent.onnx", "--json")
    assert ran.status == 2
    assert list(ran.json) == ["schema", "message", "node", "hint", "exit"]
    assert ran.json["schema"] == "ommatid.error/1" and ran.json["exit"] == 2
    assert ommatid("compile", "--json").json["exit"] == 2
    assert ommatid("compile", "m.onnx", "--json", "--bogus").json["exit"] == 2


def test_usage(ommatid: Any) -> None:
    refused(ommatid("frobnicate"), "frobnicate")
    refused(ommatid("compile"), "MODEL")
    refused(ommatid("compile", "m.onnx", "--activations", "int4"), "int4")


def test_internal_error_and_interruption(ommatid: Any, files: Path, monkeypatch: Any) -> None:
    from ommatid.isa import verifier

    def broken(program: Any) -> list[str]:
        raise RuntimeError("a fault")

    def interrupted(program: Any) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(verifier, "verify", broken)
    ran = ommatid("verify", files / "model.omm")
    refused(ran, "internal error", status=3)
    log = Path(ran.err.split("details are in ")[1].split()[0])
    assert "a fault" in log.read_text()
    log.unlink()
    monkeypatch.setattr(verifier, "verify", interrupted)
    assert ommatid("verify", files / "model.omm").status == 130


# --- mistakes of a user -------------------------------------------------------------------------------------


def test_files_taken_for_each_other(ommatid: Any, files: Path) -> None:
    model, program = files / "model.onnx", files / "model.omm"
    for command in ("compile", "check"):
        refused(ommatid(command, program), "model.omm")
    for command in ("run", "profile", "verify", "inspect", "disasm"):
        refused(ommatid(command, model), "model.onnx")
    refused(ommatid("compare", program, model), "model.onnx")
    refused(ommatid("asm", program, "-o", "a.program"), "model.omm")
    write("text.txt", b"hello")
    refused(ommatid("compile", "text.txt"), "text.txt")
    refused(ommatid("compile", model, "--target", "text.txt"), "text.txt")
    refused(ommatid("run", program, "-i", "text.txt"), "text.txt")
    refused(ommatid("compile", ""), "''")


def test_names_that_the_model_does_not_have(ommatid: Any, files: Path) -> None:
    model = files / "model.onnx"
    for command in ("compile", "check"):
        refused(ommatid(command, model, "--outputs", "nobody"), "nobody")
        refused(ommatid(command, model, "--inputs", "nobody"), "nobody")
    refused(ommatid("run", files / "model.omm", "-i", f"nobody={files / 'x.npy'}"), "'nobody'")


def test_wrong_options(ommatid: Any, files: Path) -> None:
    model, program = files / "model.onnx", files / "model.omm"
    Path("pictures").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("pictures/a.png")
    pictures = ("--calibration", "pictures")
    refused(ommatid("compile", model, "--mean", "a,b"), "a,b")
    refused(ommatid("compile", model, "--mean", "1,2", *pictures), "mean")
    refused(ommatid("compile", model, "--std", "0", *pictures), "std")
    refused(ommatid("compile", model, "--nonsense", "1"), "--nonsense")
    refused(ommatid("compile", model, "--recipe", "nonsense.toml"), "nonsense.toml")
    refused(ommatid("compile", model, "-O", "9"), "-O")
    refused(ommatid("compile", model, "--method", "guess"), "guess")
    refused(ommatid("profile", program, "--top", "-3"), "--top")
    refused(ommatid("compare", model, program, "--min-sqnr-db", "high"), "high")
    refused(ommatid("compare", model, program, "--min-sqnr-db", "500"), "dB", status=1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite(ommatid: Any, files: Path, value: float) -> None:
    np.savez("bad.npz", x=np.full((2, 3, 8, 8), value, np.float32))
    refused(ommatid("compile", files / "model.onnx", "--calibration", "bad.npz"), "bad.npz")
    refused(ommatid("compare", files / "model.onnx", files / "model.omm", "--data", "bad.npz"), "bad.npz")


def test_samples_that_are_no_arrays_of_numbers(ommatid: Any, files: Path) -> None:
    for array in (np.float32(1), np.array(["a", "b"]), np.array([{}], dtype=object), np.zeros((0, 3, 8, 8))):
        np.savez("bad.npz", x=array)
        refused(ommatid("compile", files / "model.onnx", "--calibration", "bad.npz"), "bad.npz")
        np.save("bad.npy", array)
        culprit = "bad.npy" if array.dtype == object else "'x'"
        refused(ommatid("run", files / "model.omm", "-i", "bad.npy"), culprit)
    np.savez("bad.npz", x=np.full((2, 3, 8, 8), "word"))
    refused(ommatid("compile", files / "model.onnx", "--calibration", "bad.npz"), "bad.npz")


def test_an_output_that_cannot_be_is_named_and_nothing_else_is_written(ommatid: Any, files: Path) -> None:
    ran = ommatid("compile", files / "model.onnx", "-o", "no/such/m.omm", "--save-qdq", "q.onnx")
    refused(ran, "error: no/such/m.omm")
    assert not list(Path.cwd().iterdir())
    refused(ommatid("compile", files / "model.onnx", "--save-qdq", "no/q.onnx"), "error: no/q.onnx")
    refused(ommatid("profile", files / "model.omm", "--csv", "no/p.csv"), "error: no/p.csv")
    refused(ommatid("disasm", files / "model.omm", "-o", "no/p.s"), "error: no/p.s")


def test_interruption_of_a_compilation_leaves_nothing(files: Path, tmp_path: Path) -> None:
    script = (
        "import os, signal, time, ommatid.compiler.pipeline as p\n"
        "from ommatid.cli.main import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it\n"
        "p.compile_network = lambda *_: (os.kill(os.getpid(), signal.SIGINT), time.sleep(9))\n"
        f"main(['compile', {str(files / 'model.onnx')!r}, '-o', 'm.omm'])\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 130 and "Traceback" not in ran.stderr and "error: interrupted" in ran.stderr
    assert not list(tmp_path.iterdir())
