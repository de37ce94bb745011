"""Golden texts: what a stage prints, compared with a committed file beside the test.

``GOLDEN=1 pytest`` (``make golden``) writes the files anew. A file lies at ``tests/PART/golden/MODULE-NAME`` and
belongs to ``tests/PART/test_MODULE.py``, which must name it: ``test_golden.py`` sees to that.
"""

from __future__ import annotations

import os
from pathlib import Path


def check_golden(test_file: str, name: str, text: str) -> None:
    """``text`` is what the golden file ``name`` of that test file holds."""
    test = Path(test_file)
    path = test.parent / "golden" / f"{test.stem.removeprefix('test_')}-{name}"
    if os.environ.get("GOLDEN") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"{path} is missing: run `make golden`"
    assert text == path.read_text(encoding="utf-8"), f"{path} differs: see `make golden`"
