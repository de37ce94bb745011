"""What is installed only with an extra, and the error that says so."""

from __future__ import annotations

import importlib
from typing import Any


class MissingExtra(ValueError):
    """A package that comes with an extra is not there; ``hint`` says how to get it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs the package {package}, which is not installed")
        self.hint = f"pip install 'ommatid[{extra}]'"


def needed(module: str, extra: str) -> Any:
    """A module that comes with an extra.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or module, extra) from None
