"""``--json``: exactly one object, with the keys that scripts may rely on (design, section 7)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper
from PIL import Image

from ommatid.cli.console import print_json
from ommatid.isa.program_file import load, save
from ommatid.runtime.session import InferenceSession
from tests import networks
from tests.isa.records import same

#: As the design states them.
KEYS = {
    "compile": "program target npu_node_count cpu_node_count partitions instructions macs cycles lower_bound_cycles "
    "roofline_cycles dram_bytes compulsory_dram_bytes sram_peak_bytes dram_peak_bytes program_bytes compile_s "
    "variants findings accuracy front",
    "run": "outputs cycles latency_ms wall_s",
    "profile": "cycles latency_ms fps bound utilization energy_uj cpu_partitions cores one_core_layers layers nodes",
    "check": "nodes npu_node_count cpu_node_count ok findings",
    "compare": "tensors worst",
    "verify": "ok problems",
}
LAYER = (
    "name op nodes cycles share macs utilization dram_bytes spilled_bytes sram_peak_bytes energy_uj instructions efficiency "
    "bound stall_bank_cycles stall_bandwidth_cycles stall_latency_cycles stall_fetch_cycles stall_token_cycles unavailable"
)
TENSOR = "name mode reference sqnr_db cosine max_abs_error equal"


def finite(value: Any) -> bool:
    """No NaN and no infinity anywhere."""
    if isinstance(value, dict):
        return all(finite(v) for v in value.values())
    if isinstance(value, list):
        return all(finite(v) for v in value)
    return not isinstance(value, float) or math.isfinite(value)


def result(ran: Any, command: str, status: int = 0) -> dict[str, Any]:
    """The command's object, its form checked."""
    assert ran.status == status, ran.err
    assert len(ran.out.strip().splitlines()) == 1
    table = ran.json
    assert next(iter(table)) == "schema" and table["schema"] == f"ommatid.{command}/1"
    assert list(table)[1:] == KEYS.get(command, " ".join(list(table)[1:])).split()
    assert finite(table)
    return dict(table)


def test_compile(ommatid: Any, files: Path) -> None:
    given = ("--calibration", files / "samples.npz", "--json")
    table = result(ommatid("compile", files / "model.onnx", "-o", "m.omm", *given), "compile")
    program = load("m.omm")
    assert table["program"] == "m.omm" and table["target"] == "ommatid-1k"
    assert table["npu_node_count"] == 3 and table["cpu_node_count"] == 0
    assert table["macs"] == 8 * 8 * (8 * 3 * 9 + 5 * 8) and table["instructions"] == len(program.instructions)
    assert table["cycles"] >= table["lower_bound_cycles"] > 0
    assert table["dram_bytes"] >= table["compulsory_dram_bytes"] > 0
    assert table["program_bytes"] == Path("m.omm").stat().st_size


def test_compile_is_the_same_twice(ommatid: Any, files: Path) -> None:
    for name in ("a.omm", "b.omm"):
        ommatid("compile", files / "model.onnx", "-o", name, "--calibration", files / "samples.npz", "-q")
    assert Path("a.omm").read_bytes() == Path("b.omm").read_bytes()


def test_run(ommatid: Any, files: Path) -> None:
    table = result(ommatid("run", files / "model.omm", "-i", files / "x.npy", "-o", "out", "--json"), "run")
    session = InferenceSession(load(files / "model.omm"))
    wanted = session.run(None, networks.inputs())[0]
    assert np.array_equal(np.load("out/y.npy"), wanted)
    digest = hashlib.sha256(wanted.tobytes()).hexdigest()
    assert table["outputs"] == {"y": {"dtype": "float32", "shape": [1, 5, 8, 8], "sha256": digest}}
    assert table["cycles"] == session.cycles and table["latency_ms"] == pytest.approx(session.cycles / 1e6)


def test_run_on_a_picture_as_the_program_says(ommatid: Any, files: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    options = (
        "--mean",
        "0.5,0.4,0.3",
        "--std",
        "0.2",
        "--color",
        "bgr",
        "--calibration",
        files / "samples.npz",
        "-q",
    )
    assert ommatid("compile", files / "model.onnx", "-o", "m.omm", *options).status == 0
    by_picture = result(ommatid("run", "m.omm", "-i", "photo.png", "--json"), "run")
    real = (
        pixels[..., ::-1].astype(np.float32) / np.float32(255) - np.float32([0.5, 0.4, 0.3])
    ) / np.float32(0.2)
    np.save("x.npy", np.ascontiguousarray(real.transpose(2, 0, 1)[None]))
    by_array = result(ommatid("run", "m.omm", "-i", "x=x.npy", "--json"), "run")
    assert by_picture["outputs"] == by_array["outputs"]


def test_profile(ommatid: Any, files: Path) -> None:
    table = result(ommatid("profile", files / "model.omm", "--json"), "profile")
    assert all(list(row) == LAYER.split() for row in table["layers"])
    assert all(row["bound"] in ("mx", "vx", "dram", "sram", "dependency") for row in table["layers"])
    assert all(0 <= share <= 1 for share in table["utilization"].values())
    assert table["fps"] == pytest.approx(1e3 / table["latency_ms"])
    names = {node for row in table["layers"] for node in row["nodes"]}
    assert {"first", "second"} <= names
    assert (
        sum(row["cycles"] for row in table["layers"]) == table["cycles"]
        and table["layers"][-1]["name"] == "idle"
    )
    assert [n["fate"] for n in table["nodes"]] == ["executed", "fused", "executed"]


def test_profile_to_files(ommatid: Any, files: Path) -> None:
    ran = ommatid(
        "profile", files / "model.omm", "--html", "p.html", "--trace", "p.pftrace", "--csv", "p.csv", "--json"
    )
    cycles = result(ran, "profile")["cycles"]
    assert f"{cycles:,}" in Path("p.html").read_text() and b"second" in Path("p.pftrace").read_bytes()
    assert Path("p.csv").read_text().startswith("name,op,nodes,cycles")
    assert ommatid("profile", files / "model.omm", "--html", "no/p.html").status == 2


def test_check(ommatid: Any, files: Path) -> None:
    table = result(ommatid("check", files / "model.onnx", "--json"), "check")
    assert (
        table["ok"] and [node["placement"] for node in table["nodes"]] == ["npu"] * 2
    )  # Relu is the rounding's clamp
    Path("host.onnx").write_bytes(networks.with_host_part().SerializeToString())
    table = result(ommatid("check", "host.onnx", "--json"), "check", status=1)
    assert not table["ok"] and table["cpu_node_count"] == 1
    node = next(n for n in table["nodes"] if n["placement"] == "cpu")
    assert list(node) == ["name", "op", "placement", "rule", "hint"] and node["op"] == "Celu"
    assert node["rule"] and node["hint"]


@pytest.mark.parametrize("mode", ["entire", "single"])
def test_compare(ommatid: Any, files: Path, mode: str) -> None:
    given = (files / "model.omm", "--data", files / "samples.npz", "--json")
    table = result(ommatid("compare", files / "model_qdq.onnx", *given, "--mode", mode), "compare")
    assert all(list(row) == TENSOR.split() for row in table["tensors"]) and len(table["tensors"]) >= 2
    assert all(
        row["equal"] == 1 and row["mode"] == mode and row["reference"] == "qdq" for row in table["tensors"]
    )
    assert table["worst"] in {row["name"] for row in table["tensors"]}


def test_compare_with_the_float_model_and_a_minimum(ommatid: Any, files: Path) -> None:
    given = (files / "model.onnx", files / "model.omm", "--data", files / "samples.npz")
    table = result(ommatid("compare", *given, "--json", "--min-sqnr-db", "20"), "compare")
    assert all(row["reference"] == "float" and 20 < row["sqnr_db"] < 90 for row in table["tensors"])
    assert ommatid("compare", *given, "--min-sqnr-db", "100").status == 1
    assert ommatid("compare", *given, "--min-cosine", "0.9999999999").status == 1


def test_compile_as_a_gate(ommatid: Any, files: Path) -> None:
    given = ("compile", files / "model.onnx", "-o", "m.omm", "--calibration", files / "samples.npz")
    table = result(ommatid(*given, "--json", "--min-sqnr-db", "20", "--min-cosine", "0.9"), "compile")
    assert [list(row) for row in table["accuracy"]] == [["name", "sqnr_db", "cosine"]]
    assert table["accuracy"][0]["name"] == "y" and table["findings"] == []
    compared = result(
        ommatid("compare", files / "model.onnx", "m.omm", "--data", files / "samples.npz", "--json"),
        "compare",
    )
    (y,) = [row for row in compared["tensors"] if row["name"] == "y"]
    assert table["accuracy"][0]["sqnr_db"] == pytest.approx(y["sqnr_db"], abs=1e-3)
    assert [row["sqnr_db"] for row in compared["tensors"]] == sorted(
        row["sqnr_db"] for row in compared["tensors"]
    )
    failed = result(ommatid(*given, "--json", "--min-sqnr-db", "100"), "compile", status=1)
    assert failed["accuracy"] == table["accuracy"]
    said = ommatid(*given, "--min-cosine", "0.9999999999")
    assert said.status == 1 and "error: m.omm: output 'y' has" in said.err


def test_recipes(ommatid: Any, files: Path) -> None:
    given = ("compile", files / "model.onnx", "--calibration", files / "samples.npz", "-q")
    assert ommatid(*given, "-o", "a.omm", "--save-recipe", "r.toml").status == 0
    assert ommatid(*given, "-o", "b.omm", "--recipe", "r.toml").status == 0
    assert Path("a.omm").read_bytes() == Path("b.omm").read_bytes()
    assert load("a.omm").info["recipe"] == Path("r.toml").read_text()
    text = Path("r.toml").read_text()
    for precision, status in (("int16", 0), ("int3", 2)):
        edited = text.replace('[layers."first"]', f'[layers."first"]\nprecision = "{precision}"')
        Path("r.toml").write_text(edited)
        made = ommatid(*given, "-o", "b.omm", "--recipe", "r.toml")
        assert made.status == status and ("precision is 'int3'" in made.err) == (status == 2)
    kinds = {p.tensor.quantization.dtype for p in load("b.omm").placed}
    assert kinds == {"uint8", "int16"}
    assert ommatid(*given, "-o", "c.omm", "--activations", "int16").status == 0
    assert {p.tensor.quantization.dtype for p in load("c.omm").placed} == {"int16"}


def test_precision_by_tensor(ommatid: Any, files: Path) -> None:
    given = ("compile", files / "model.onnx", "--calibration", files / "samples.npz", "--precision", "auto")
    table = result(ommatid(*given, "-o", "a.omm", "--save-recipe", "r.toml", "--json"), "compile")
    keys = ["sqnr_db", "cycles", "extra_share", "int16_tensors", "chosen"]
    assert [list(row) for row in table["front"]] == [keys] * len(table["front"])
    (chosen,) = [row for row in table["front"] if row["chosen"]]
    assert chosen["cycles"] == table["cycles"]
    assert ommatid(*given[:-2], "--recipe", "r.toml", "-o", "b.omm").status == 0
    assert Path("a.omm").read_bytes() == Path("b.omm").read_bytes()
    drawn = ommatid(*given, "-o", "c.omm").out
    assert "of the extra cycles of 16 bits" in drawn and "chosen" in drawn
    for wrong in (given[:2] + given[4:], (*given, "--activations", "int16")):
        assert ommatid(*wrong).status == 2


def test_findings(ommatid: Any, files: Path) -> None:
    made = networks.convolution()
    weights = numpy_helper.to_array(made.graph.initializer[0]).copy()
    weights[2] = 0
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))
    Path("dead.onnx").write_bytes(made.SerializeToString())
    for command in ("check", "compile"):
        given = (command, "dead.onnx", "--calibration", files / "samples.npz")
        (finding,) = result(ommatid(*given, "--json"), command)["findings"]
        assert list(finding) == ["rule", "node", "figures", "remedy"]
        assert (finding["rule"], finding["node"]) == ("dead-channels", "first")
        said = ommatid(*given)
        assert "dead-channels" in said.out + said.err


def test_verify_inspect_targets_ops(ommatid: Any, files: Path) -> None:
    assert result(ommatid("verify", files / "model.omm", "--json"), "verify")["ok"] is True
    assert result(ommatid("inspect", files / "model.omm", "--json"), "inspect")["target"] == "ommatid-1k"
    targets = result(ommatid("targets", "--json"), "targets")["targets"]
    assert [t["name"] for t in targets] == ["ommatid-256", "ommatid-1k", "ommatid-4k"]
    assert "Conv" in {row["op"] for row in result(ommatid("ops", "--json"), "ops")["operators"]}


def test_a_program_for_several_shapes(ommatid: Any) -> None:
    Path("m.onnx").write_bytes(networks.resizable().SerializeToString())
    shapes = [(1, 3, 16, 16), (1, 3, 16, 32)]
    options = [part for s in shapes for part in ("--shape", f"x={','.join(map(str, s))}")]
    table = result(ommatid("compile", "m.onnx", *options, "--json", "--save-qdq", "q.onnx"), "compile")
    assert [v["inputs"] for v in table["variants"]] == [{"x": list(s)} for s in shapes]
    assert table["variants"][1]["outputs"] == {"y": [1, 5, 8, 16]}
    program = load("m.omm")
    seen = result(ommatid("inspect", "m.omm", "--json"), "inspect")
    assert seen["variants"] == table["variants"]
    alone = result(ommatid("inspect", "m.omm", "--variant", "1", "--json"), "inspect")
    assert alone["inputs"][0]["shape"] == list(shapes[1]) and alone["variants"] == table["variants"][1:]
    cycles = [
        result(ommatid("profile", "m.omm", "--variant", n, "--json"), "profile")["cycles"] for n in (0, 1)
    ]
    assert cycles[0] < cycles[1] and table["cycles"] == cycles[0]
    np.save("x.npy", np.ones((1, 3, 16, 20), np.float32))
    ran = result(ommatid("run", "m.omm", "-i", "x.npy", "--json"), "run")
    assert ran["outputs"]["y"]["shape"] == [1, 5, 8, 10] and ran["cycles"] == cycles[1]
    refused = ommatid("run", "m.omm", "-i", "x.npy", "--variant", "0")
    assert refused.status == 2 and "[1, 3, 16, 16] is needed" in refused.err
    texts = [ommatid("disasm", "m.omm", *which).out for which in ((), ("--variant", 0), ("--variant", 1))]
    assert texts[0] == texts[1] != texts[2]
    Path("one.s").write_text(texts[2])
    ommatid("asm", "one.s", "-o", "one.omm")
    assert same(load("one.omm"), program.others[0])
    for number, file in enumerate(("q.onnx", "q-1.onnx")):
        given = (file, "m.omm", "--variant", number, "--mode", "single", "--json")
        assert all(t["equal"] == 1 for t in result(ommatid("compare", *given), "compare")["tensors"])
    broken = dataclasses.replace(program, others=(dataclasses.replace(program.others[0], dram_bytes=64),))
    save(broken, "broken.omm")
    found = result(ommatid("verify", "broken.omm", "--json"), "verify", status=1)
    assert found["problems"] and all(p.startswith("variant 1: ") for p in found["problems"])
    assert ommatid("verify", "broken.omm", "--variant", "0").status == 0
    assert ommatid("inspect", "m.omm").out.count("\nvariant ") == 2
    assert "variant " not in ommatid("inspect", "one.omm").out
    missing = ommatid("profile", "m.omm", "--variant", "2")
    assert missing.status == 2 and "variant 1 (x=1,3,16,32)" in missing.err
    assert "note: variant 0 (x=1,3,16,16)" in ommatid("profile", "m.omm").err
    assert result(ommatid("check", "m.onnx", *options, "--json"), "check")["ok"]
    assert ommatid("compile", "m.onnx", *options[:2], *options[:2]).status == 2


def test_text_goes_to_a_file(ommatid: Any, files: Path) -> None:
    for command in ("profile", "verify", "inspect"):
        printed = ommatid(command, files / "model.omm")
        saved = ommatid(command, files / "model.omm", "-o", "text.txt")
        assert saved.out == "" and Path("text.txt").read_text().strip() == printed.out.strip() != ""


def test_a_command_cannot_print_other_keys() -> None:
    with pytest.raises(TypeError, match="verify"):
        print_json("verify", {"ok": True})
    assert json.loads("{}") == {}
