"""ommatid: compile ONNX vision networks for an edge NPU, run them bit-exactly, see where the cycles go."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ommatid.isa.program import Program
    from ommatid.isa.program_file import load
    from ommatid.profiler.profile import profile
    from ommatid.runtime.compile import compile_model as compile
    from ommatid.runtime.session import InferenceSession

__all__ = ["InferenceSession", "Program", "compile", "load", "profile"]

_HOMES = {
    "compile": ("ommatid.runtime.compile", "compile_model"),
    "load": ("ommatid.isa.program_file", "load"),
    "profile": ("ommatid.profiler.profile", "profile"),
    "InferenceSession": ("ommatid.runtime.session", "InferenceSession"),
    "Program": ("ommatid.isa.program", "Program"),
}


def __getattr__(name: str) -> Any:
    """The public names, imported when first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ommatid' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
