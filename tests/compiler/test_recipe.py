"""Recipes: what is written is read back; what is no recipe is refused by name; what one says, happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ommatid.compiler.errors import CompileError
from ommatid.compiler.pipeline import compile_model
from ommatid.compiler.ranges import METHODS
from ommatid.compiler.recipe import LayerRecipe, Recipe, TensorRecipe, from_toml, read_recipe, to_toml
from ommatid.isa.program_file import to_bytes
from tests import networks

SAMPLES = [networks.inputs(seed) for seed in range(4)]
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.floats(-1e30, 1e30)
RANGES = st.tuples(NUMBERS, NUMBERS).map(sorted)
TENSORS = st.builds(
    lambda method, limits: TensorRecipe(method, *(limits or (None, None))),
    st.sampled_from(["auto", *METHODS]), st.none() | RANGES,
)  # fmt: skip
SWITCH = st.sampled_from([None, True, False])
RECIPES = st.builds(
    Recipe, st.sampled_from(["uint8", "int8", "int16"]), st.dictionaries(NAMES, TENSORS, max_size=4),
    st.dictionaries(
        NAMES, st.builds(LayerRecipe, st.sampled_from([None, "int8", "int16"]), SWITCH, SWITCH), max_size=4
    ),
)  # fmt: skip


few = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@few
@given(RECIPES)
def test_what_is_written_is_read_back(recipe: Recipe) -> None:
    assert from_toml(to_toml(recipe)) == recipe


HEAD = 'schema = "ommatid.recipe/1"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schema = ", "is not TOML"),
        ("", "schema is None"),
        ('schema = "ommatid.recipe/2"', "schema is 'ommatid.recipe/2'"),
        (HEAD + "colour = 1", "unknown key 'colour'"),
        (HEAD + 'activations = "int4"', "activations is 'int4'"),
        (HEAD + "[tensors]\nx = 3", "tensor 'x': must be a table"),
        (HEAD + '[tensors.x]\nmethod = "mean"', "tensor 'x': method is 'mean'"),
        (HEAD + "[tensors.x]\nlow = 1.0", "tensor 'x': has only one of low and high"),
        (HEAD + "[tensors.x]\nlow = 1.0\nhigh = inf", "tensor 'x': low and high must be finite"),
        (HEAD + "[tensors.x]\nlow = 1.0\nhigh = 0.0", "tensor 'x': low = 1.0 is above high = 0.0"),
        (HEAD + '[layers.c]\nprecision = "int3"', "layer 'c': precision is 'int3'"),
        (HEAD + '[layers.c]\nequalize = "yes"', "layer 'c': equalize must be true or false"),
    ],
)
def test_what_is_no_recipe(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(CompileError) as caught:
        read_recipe(path)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)


def test_a_recipe_makes_the_same_program_again(tmp_path: Path) -> None:
    first = compile_model(networks.convolution(), calibration=SAMPLES)
    (tmp_path / "r.toml").write_text(first.info["recipe"])
    second = compile_model(networks.convolution(), calibration=SAMPLES, recipe=tmp_path / "r.toml")
    assert to_bytes(second) == to_bytes(first)
    assert from_toml(second.info["recipe"]) == read_recipe(tmp_path / "r.toml")


def test_an_edited_range_rules() -> None:
    recipe = Recipe("int8", {"x": TensorRecipe("minmax", -2.0, 3.1), "y": TensorRecipe("percentile")})
    program = compile_model(networks.convolution(), calibration=SAMPLES, recipe=recipe)
    tensors = {p.tensor.name: p.tensor for p in program.placed}
    q = tensors["x_QuantizeLinear_Output"].quantization
    assert q.scale == pytest.approx(np.float32(5.1 / 255)) and q.dtype == "int8"
    assert from_toml(program.info["recipe"]).tensors["y"].method == "percentile"


def test_what_a_layer_says_is_done() -> None:
    def layers(**fields: Any) -> Any:
        recipe = Recipe(layers={"second": LayerRecipe(**fields), "first": LayerRecipe(correct_bias=False)})
        made = compile_model(networks.convolution(), calibration=SAMPLES, recipe=recipe)
        return from_toml(made.info["recipe"]).layers["second"]

    assert layers(equalize=False, correct_bias=False) == LayerRecipe(None, False, False)
    assert layers(equalize=False, correct_bias=True).equalize is False


@pytest.mark.parametrize("activations", ["uint8", "int16"])
def test_a_layer_of_another_precision(activations: str) -> None:
    """What a layer reads and writes has its precision, all else that of the recipe; 16 bits win."""
    other = {"uint8": "int16", "int16": "int8"}[activations]
    recipe = Recipe(activations, layers={"second": LayerRecipe(other)})
    made = compile_model(networks.convolution(), calibration=SAMPLES, recipe=recipe, optimize=0)
    assert [p.placement for p in made.partitions] == ["npu"]
    kinds = {
        p.tensor.name.removesuffix("_QuantizeLinear_Output"): p.tensor.quantization.dtype for p in made.placed
    }
    first, *_, last = (node.name for node in networks.convolution().graph.node)
    assert (first, last) == ("first", "second")
    wanted = {"uint8": {"x": "uint8", "y": "int16"}, "int16": {"x": "int16", "y": "int8"}}[activations]
    assert wanted.items() <= kinds.items() and set(kinds.values()) == set(wanted.values())
    again = compile_model(
        networks.convolution(), calibration=SAMPLES, recipe=from_toml(made.info["recipe"]), optimize=0
    )
    assert to_bytes(again) == to_bytes(made)


def test_names_that_the_model_does_not_have() -> None:
    with pytest.raises(CompileError, match="no tensor 'q'"):
        compile_model(networks.convolution(), recipe=Recipe(tensors={"q": TensorRecipe()}))
    with pytest.raises(CompileError, match="no layer 'q'"):
        compile_model(networks.convolution(), recipe=Recipe(layers={"q": LayerRecipe()}))
    with pytest.raises(CompileError, match="needs data") as caught:
        compile_model(networks.convolution(), recipe=Recipe(layers={"second": LayerRecipe(equalize=True)}))
    assert "--calibration" in caught.value.hint
