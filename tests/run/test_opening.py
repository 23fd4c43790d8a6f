"""A run is one recipe's for ever."""

from pathlib import Path

import pytest

from k2.recipe.load import RecipeError, load_recipe, to_toml
from k2.recipe.place import Place
from k2.run.layout import RunLayout, run_root
from k2.run.opening import NoSuchRun, change_world, create_or_open, existing_runs, open_run

MINI = str(Path(__file__).parents[1] / "mini.toml")


def test_a_run_opens_as_it_was_created(tmp_path: Path) -> None:
    recipe, layout = load_recipe(MINI), RunLayout(tmp_path / "first")
    create_or_open(layout, recipe, Place())
    create_or_open(layout, recipe, Place(threads_per_rank=2))
    create_or_open(layout, recipe, None)  # as a resume from the form does: the run keeps its place
    assert open_run(layout) == (recipe, Place(threads_per_rank=2))
    assert existing_runs(tmp_path) == [layout]


@pytest.mark.parametrize(("changes", "says"), [
    (("optimizer.clip=0.5",), r"what differs: optimizer\.clip: 1\.0 -> 0\.5\. Go on with its own"),
    (("layout.precision='bf16'", "data.held_out=0.2"), r"held_out: 0\.15 -> 0\.2; layout\.precision: 'fp32' -> 'bf16'\. .* --run\.$"),
    (("tokenizer.pieces=420",), r"tokenizer\.pieces: 430 -> 420"),
    (("layout.pipeline=1",), r"layout\.pipeline: 2 -> 1\. .*may change under it: `k2 resume first --world"),
    (("stages.stage1.micro_batch_samples=1",), r"may change under it: `k2 resume first --world"),
])  # fmt: skip
def test_another_recipe_is_refused_with_what_differs(tmp_path: Path, changes: tuple[str, ...], says: str) -> None:
    layout = RunLayout(tmp_path / "first")
    create_or_open(layout, load_recipe(MINI), Place())
    with pytest.raises(RecipeError, match=says):
        create_or_open(layout, load_recipe(MINI, changes), Place())


def test_a_recipe_changed_under_a_run_is_refused(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "first")
    create_or_open(layout, load_recipe(MINI), Place())
    layout.recipe.write_text(layout.recipe.read_text().replace("clip = 1.0", "clip = 2.0"))
    with pytest.raises(RecipeError, match="is not the recipe that this run was created with"):
        open_run(layout)
    layout.checkpoint("ckpt_001").mkdir(parents=True)  # each has the recipe as it was
    (layout.checkpoint("ckpt_001") / "recipe.toml").write_text(to_toml(load_recipe(MINI)))
    with pytest.raises(RecipeError, match=r"what differs from .*ckpt_001/recipe\.toml: optimizer\.clip: 1\.0 -> 2\.0"):
        open_run(layout)


def test_another_world_is_the_places_matter_and_must_divide_the_recipe(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "first")
    create_or_open(layout, load_recipe(MINI), Place(threads_per_rank=2))
    change_world(layout, "pp1dp2tp1mb1")
    recipe, place = open_run(layout)
    assert recipe == load_recipe(MINI)
    assert place == Place(threads_per_rank=2, world="pp1dp2tp1mb1")
    with pytest.raises(RecipeError, match=r"layout\.pipeline = 3"):
        change_world(layout, "pp3dp1")


def test_there_is_no_run_where_none_was_started(tmp_path: Path) -> None:
    with pytest.raises(NoSuchRun, match="k2 run"):
        open_run(RunLayout(tmp_path / "none"))


@pytest.mark.parametrize("name", ["Upper", "-x", "a b", "a;rm", "x" * 64, ""])
def test_a_name_that_cannot_be_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a run"):
        run_root(tmp_path, name)
