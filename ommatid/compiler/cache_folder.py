"""Where results are kept on disk."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``OMMATID_CACHE_DIR``, or the user's cache folder."""
    given = os.environ.get("OMMATID_CACHE_DIR")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ommatid"
