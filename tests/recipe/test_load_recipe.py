"""Recipes are loaded, changed, refused and compared through `k2.recipe.load`."""

from pathlib import Path

import pytest

from k2.recipe.load import RecipeError, differences, digest, load_place, load_recipe, shipped_recipes, to_toml
from k2.recipe.place import Place


@pytest.mark.parametrize("name", ["k2_1b", "k2_65b"])
def test_shipped_recipes_load_and_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    copy = tmp_path / "copy.toml"
    copy.write_text(to_toml(recipe))
    assert name in shipped_recipes()
    assert load_recipe(str(copy)) == recipe
    assert digest(load_recipe(str(copy))) == digest(recipe)


def test_an_override_changes_the_digest_and_is_the_only_difference() -> None:
    recipe = load_recipe("k2_65b")
    changed = load_recipe("k2_65b", ("stages.stage2.context=4096", "checkpoints.rescue_every_steps=100"))
    assert digest(changed) != digest(recipe)
    assert differences(recipe, changed) == ["checkpoints.rescue_every_steps: 250 -> 100", "stages.1.context: 8192 -> 4096"]


def test_a_batch_that_the_layout_does_not_divide_is_refused_with_the_nearest_that_fits() -> None:
    with pytest.raises(RecipeError, match=r"batch_samples = 2048 is not a multiple of .* 15 x 4 = 60; the nearest that is: 2040"):
        load_recipe("k2_65b", ("stages.stage1.batch_samples=2048",))


def test_an_unknown_field_is_refused_by_name() -> None:
    with pytest.raises(RecipeError, match=r"model\.layerz: no such field"):
        load_recipe("k2_65b", ("model.layerz=80",))


def test_a_value_of_the_wrong_kind_is_refused_with_the_value() -> None:
    with pytest.raises(RecipeError, match=r"model\.layers = 'many'"):
        load_recipe("k2_65b", ("model.layers=many",))


def test_warmup_longer_than_the_stage_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"warmup_steps = 2000 must be below the stage's 829 steps"):
        load_recipe("k2_65b", ("stages.stage2.chunks=1",))


def test_a_mix_of_an_unknown_subset_is_refused() -> None:
    with pytest.raises(RecipeError, match="names the subset 'c4'"):
        load_recipe("k2_65b", ('stages.stage2.mix=[{subset = "c4"}]',))


def test_unknown_names_and_bad_documents_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(RecipeError, match="neither a file nor one of the shipped recipes"):
        load_recipe("k3_900b")
    with pytest.raises(RecipeError, match="is not valid TOML"):
        load_recipe(str(broken))
    with pytest.raises(RecipeError, match=r"must be written field\.subfield=value"):
        load_recipe("k2_65b", ("layout.data",))
    with pytest.raises(RecipeError, match="no entry 'stage9'; there are stage1, stage2"):
        load_recipe("k2_65b", ("stages.stage9.context=1",))


def test_place_defaults_to_this_machine_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    place = tmp_path / "place.toml"
    place.write_text("gpu = 8\n")
    assert Place().device == "auto"
    with pytest.raises(RecipeError, match="gpu: no such field"):
        load_place(str(place))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("layout.data=16",), r"stages.stage1.batch_samples = 2040 is not a multiple of .* = 16 x 4 = 64; the nearest that is: 2048"),
        (("layout.pipeline=3",), r"model.layers = 80 is not a multiple of layout.pipeline = 3"),
        (("layout.pipeline=160",), r"model.layers = 80 is not a multiple of layout.pipeline = 160"),  # a stage without a layer hangs
        (("layout.tensor=16", "model.vocab_rows=32024"), r"model.vocab_rows = 32024 is not a multiple of layout.tensor = 16"),
        (("layout.tensor=32", "model.ffn=22000"), r"model.ffn = 22000 is not a multiple of layout.tensor = 32"),
        (("layout.tensor=6",), r"model.heads = 64 is not a multiple of layout.tensor = 6"),
        (
            ("stages.stage2.context=8190",),
            r"stages.stage2.context = 8190 is not a multiple of layout.tensor .* = 8; the next that is: 8192",
        ),
        (("layout.zero_stage=3",), r"layout.zero_stage = 3 .* does not go with layout.pipeline = 4 and layout.tensor = 8; set both to 1"),
        (("layout.tensor=1",), r"sequence_parallel = true has no effect with layout.tensor = 1"),
    ],
)
def test_a_layout_that_does_not_divide_is_refused_with_the_numbers(overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        load_recipe("k2_65b", overrides)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("nodes = 2", "cannot find each other without rendezvous"),
        ('nodes = 2\nrendezvous = "10.0.0.1:29500"', "nodes = 2 hosts must agree"),
        ('rendezvous = "10.0.0.1:29500"', "has no effect with nodes = 1"),
        ('nodes = 2\nrendezvous = "10.0.0.1"', "rendezvous"),
        ('nodes = 2\nrendezvous = "-x:29500"', "rendezvous"),
        ('nodes = 2\nrendezvous = "10.0.0.1:65536"', "names a port above 65535"),
        ('nodes = 2\nrendezvous = "a:29500 --rdzv-id=1"', "rendezvous"),
    ],
)
def test_a_place_whose_nodes_cannot_meet_is_refused(tmp_path: Path, lines: str, words: str) -> None:
    path = tmp_path / "place.toml"
    path.write_text(lines + "\n")
    with pytest.raises(RecipeError, match=words):
        load_place(str(path))
