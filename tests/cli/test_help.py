"""The help is quick: it imports nothing heavy."""

import subprocess
import sys

from ommatid.cli.main import COMMANDS


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from ommatid.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as left:\n    assert not left.code\n"
        "heavy = {'numpy', 'numba', 'onnx', 'onnxruntime'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert all(f"  {name} " in ran.stdout for name in COMMANDS)


def test_every_command_has_help_and_the_common_options(ommatid) -> None:  # type: ignore[no-untyped-def]
    for name in COMMANDS:
        ran = ommatid(name, "--help")
        assert ran.status == 0
        assert all(
            option in ran.out for option in ("--json", "--output", "--quiet", "--verbose", "--version")
        )


def test_version(ommatid) -> None:  # type: ignore[no-untyped-def]
    ran = ommatid("--version")
    assert ran.status == 0 and ran.out.startswith("ommatid")
