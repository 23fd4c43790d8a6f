"""Other worlds than the recipe's, and what may change under a run."""

from pathlib import Path

import pytest

from k2.recipe.fitness import misfits
from k2.recipe.load import RecipeError, digest, load_recipe
from k2.recipe.world import in_world, world_of

MINI = str(Path(__file__).parents[1] / "mini.toml")
RECIPE = load_recipe(MINI)


def test_a_world_changes_ranks_and_micro_batches_and_nothing_else():
    changed = in_world(RECIPE, "pp1dp2tp2spmb2")
    assert world_of(changed) == "pp1dp2tp2sp"
    assert [stage.micro_batch_samples for stage in changed.stages] == [2, 1]  # batches of 4 and 2 samples, over two data ranks
    assert misfits(RECIPE, changed) == []
    assert in_world(changed, "pp2dp1").stages == changed.stages


def test_a_zero_stage_is_named_or_the_recipes_where_the_ranks_take_it():
    assert world_of(in_world(RECIPE, "pp1dp2zero3")) == "pp1dp2tp1zero3"
    sharded = load_recipe(MINI, ("layout.pipeline=1", "layout.data=2", "layout.zero_stage=3"))
    assert [in_world(sharded, world).layout.zero_stage for world in ("pp1dp2mb1", "pp1dp2zero2", "pp1dp1", "pp2dp2mb1")] == [3, 2, 1, 1]
    assert misfits(sharded, in_world(sharded, "pp2dp1")) == []


def test_without_a_world_the_recipe_is_its_own():
    assert digest(in_world(RECIPE, None)) == digest(RECIPE)
    assert world_of(RECIPE) == "pp2dp1tp1"


@pytest.mark.parametrize(("world", "says"), [
    ("2x1", "'2x1' is no world: write pipeline, data and tensor ranks as pp2dp1tp1"),
    ("pp3dp1", r"model.layers = 2 is not a multiple of layout.pipeline = 3"),
    ("pp1dp3", "batch_samples = 4 is not a multiple"),
    ("pp2dp1zero3", r"layout.zero_stage = 3 .* does not go with layout.pipeline = 2"),
    ("pp1dp1mb3", "mb3: micro-batches of 3 samples divide no stage's batch; .* 4 samples in stage1, 2 samples in stage2"),
    ("pp1dp1mb0", "'pp1dp1mb0' is no world"),
])  # fmt: skip
def test_what_does_not_divide_the_recipe_is_no_world_for_it(world, says):
    with pytest.raises(RecipeError, match=says):
        in_world(RECIPE, world)


@pytest.mark.parametrize("change", [
    "optimizer.beta2=0.99", "model.ffn=96", "layout.precision='bf16'", "stages.stage1.batch_samples=8", "stages.stage1.context=64",
    "seed=7", "tokenizer.pieces=400", "data.held_out=0.2", "stages.stage2.schedule.peak=1e-3",
])  # fmt: skip
def test_what_the_numbers_depend_on_may_not_change_and_is_named(change):
    assert [line.partition(": ")[0].replace("stages.0", "stages.stage1").replace("stages.1", "stages.stage2")
            for line in misfits(RECIPE, load_recipe(MINI, (change,)))] == [change.partition("=")[0]]  # fmt: skip


@pytest.mark.parametrize("change", [
    "checkpoints.rescue_every_steps=2", "spikes.margin_steps=3", "evaluation.every=2", "publishing.every=3", "name=other",
    "layout.pipeline=1", "stages.stage1.micro_batch_samples=1",
])  # fmt: skip
def test_where_it_runs_and_what_is_done_beside_it_may_change(change):
    assert misfits(RECIPE, load_recipe(MINI, (change,))) == []
