"""The recipe of a quantisation: TOML that the tool writes, a person edits, and the tool takes back.

``[tensors."name"]`` has ``method`` (of ``ranges.METHODS``) or a range, ``low`` and ``high``, which then rules; and
``precision``, which rules over that of layers.
``[layers."name"]`` has ``precision``; for a convolution also ``equalize`` (its input's channels get ranges alike)
and ``correct_bias``. What a recipe does not name is found as if there were none.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ommatid.compiler.errors import CompileError
from ommatid.compiler.ranges import METHODS

#: At the end of a tensor's name: its values are no longer those of the model that was given.
EQUALIZED = "__equalized"

SCHEMA = "ommatid.recipe/1"
ACTIVATIONS = ("uint8", "int8", "int16")
#: Of a tensor, or of all that a layer reads and writes; "int8" is either type of 8 bits.
PRECISIONS = ("int8", "int16")


@dataclass(frozen=True)
class TensorRecipe:
    """How a tensor's range is found, or the range itself; its precision (None: that of the layers at it)."""

    method: str = "auto"
    low: float | None = None
    high: float | None = None
    precision: str | None = None


@dataclass(frozen=True)
class LayerRecipe:
    """How a layer is computed; None: as the recipe's ``activations``, or as the error says."""

    precision: str | None = None
    equalize: bool | None = None
    correct_bias: bool | None = None


@dataclass(frozen=True)
class Recipe:
    """Tensors and layers by their names in the canonical float model."""

    activations: str = "uint8"
    tensors: Mapping[str, TensorRecipe] = field(default_factory=dict)
    layers: Mapping[str, LayerRecipe] = field(default_factory=dict)

    @property
    def bytes_type(self) -> str:
        """The type of activations that have 8 bits."""
        return "int8" if self.activations == "int16" else self.activations

    def has_16_bits(self, name: str | None) -> bool:
        """Whether a layer's activations have 16 bits."""
        return (self.layer(name).precision or self.activations) == "int16"

    def precision(self, name: str) -> str | None:
        """What is said of a tensor's precision; an equalised one has that of the tensor that it was."""
        entry = self.tensors.get(name) or self.tensors.get(name.removesuffix(EQUALIZED))
        return entry.precision if entry is not None else None

    def layer(self, name: str | None) -> LayerRecipe:
        """A layer's entry, or one that leaves all to the error."""
        return self.layers.get(name or "", LayerRecipe())


def to_toml(recipe: Recipe) -> str:
    """The file's text; ``from_toml`` gives back the same recipe."""
    lines = [f'schema = "{SCHEMA}"', f'activations = "{recipe.activations}"']
    for table, entries in (("tensors", recipe.tensors), ("layers", recipe.layers)):
        for name, entry in entries.items():
            lines += ["", f"[{table}.{_quoted(name)}]"]
            lines += [
                f"{key} = {json.dumps(value)}" for key, value in vars(entry).items() if value is not None
            ]
    return "\n".join(lines) + "\n"


def _quoted(name: str) -> str:
    """A TOML string: JSON's, but for the one more character that TOML wants escaped."""
    return json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a file.

    Raises:
        CompileError: it cannot be read, or is no recipe.
    """
    try:
        return from_toml(Path(path).read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError:
        raise CompileError(f"{path}: is not text", _HINT) from None
    except OSError as error:
        raise CompileError(f"{path}: {error.strerror}", _HINT) from None


_HINT = "write one with `ommatid compile --save-recipe`"


def from_toml(text: str, where: str = "recipe") -> Recipe:
    """The recipe of a text.

    Raises:
        CompileError: it is no recipe; the message names the entry.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CompileError(f"{where}: is not TOML: {error}", _HINT) from None
    if table.get("schema") != SCHEMA:
        raise CompileError(f"{where}: schema is {table.get('schema')!r}; {SCHEMA!r} is needed", _HINT)
    _only(table, ("schema", "activations", "tensors", "layers"), where)
    activations = _one_of(table.get("activations", "uint8"), ACTIVATIONS, f"{where}: activations")
    tensors = {n: _tensor(e, f"{where}: tensor {n!r}") for n, e in _entries(table, "tensors", where)}
    layers = {n: _layer(e, f"{where}: layer {n!r}") for n, e in _entries(table, "layers", where)}
    return Recipe(activations, tensors, layers)


def _entries(table: Mapping[str, Any], key: str, where: str) -> list[tuple[str, Any]]:
    entries = table.get(key, {})
    if not isinstance(entries, dict):
        raise CompileError(f"{where}: {key} must be a table", _HINT)
    return list(entries.items())


def _tensor(entry: Any, where: str) -> TensorRecipe:
    _only(entry, ("method", "low", "high", "precision"), where)
    method = _one_of(entry.get("method", "auto"), ("auto", *METHODS), f"{where}: method")
    low, high, precision = entry.get("low"), entry.get("high"), _precision(entry, where)
    if (low is None) != (high is None):
        raise CompileError(f"{where}: has only one of low and high", "give both, or neither")
    if low is None:
        return TensorRecipe(method, precision=precision)
    if not all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in (low, high)
    ):
        raise CompileError(f"{where}: low and high must be finite numbers")
    if not low <= high:
        raise CompileError(f"{where}: low = {low} is above high = {high}")
    return TensorRecipe(method, float(low), float(high), precision)


def _layer(entry: Any, where: str) -> LayerRecipe:
    _only(entry, ("precision", "equalize", "correct_bias"), where)
    precision = _precision(entry, where)
    for key in ("equalize", "correct_bias"):
        if not isinstance(entry.get(key, False), bool):
            raise CompileError(f"{where}: {key} must be true or false")
    return LayerRecipe(precision, entry.get("equalize"), entry.get("correct_bias"))


def _precision(entry: Any, where: str) -> str | None:
    return _one_of(entry["precision"], PRECISIONS, f"{where}: precision") if "precision" in entry else None


def _only(entry: Any, keys: tuple[str, ...], where: str) -> None:
    if not isinstance(entry, dict):
        raise CompileError(f"{where}: must be a table", _HINT)
    for key in entry:
        if key not in keys:
            raise CompileError(f"{where}: unknown key {key!r}", f"the keys are {', '.join(keys)}")


def _one_of(value: Any, known: tuple[str, ...], where: str) -> str:
    if value not in known:
        raise CompileError(f"{where} is {value!r}", f"use one of {', '.join(known)}")
    return str(value)
