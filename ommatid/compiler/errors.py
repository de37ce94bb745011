"""What the compiler says when it cannot go on."""

from __future__ import annotations


class CompileError(ValueError):
    """A model, option or calibration set that cannot be used.

    ``node`` names the ONNX node or tensor at fault ("" if none), ``hint`` the next step.
    """

    def __init__(self, message: str, hint: str = "", node: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.node = node


class Unsupported(Exception):
    """A rule's reasons why a node cannot run on the NPU."""
