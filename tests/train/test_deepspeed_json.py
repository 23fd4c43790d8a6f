"""The settings that DeepSpeed gets, for K2's layout and for the tests'."""

from pathlib import Path

from k2.recipe.load import load_recipe
from k2.train.deepspeed_json import deepspeed_json

MINI = str(Path(__file__).parents[1] / "mini.toml")


def test_batch_sizes_of_both_k2_stages():
    recipe = load_recipe("k2_65b")
    stage1, stage2 = (deepspeed_json(recipe, stage) for stage in recipe.stages[:2])
    sizes = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    assert [stage1[s] for s in sizes] == [2040, 4, 34]  # 15 data ranks, K2 §3.1
    assert [stage2[s] for s in sizes] == [510, 1, 34]


def test_bf16_accumulates_gradients_in_fp32():
    recipe = load_recipe(MINI, ('layout.precision="bf16"',))
    document = deepspeed_json(recipe, recipe.stage("stage1"))
    assert document["bf16"]["enabled"] is True
    assert document["data_types"]["grad_accum_dtype"] == "fp32"


def test_fp32_asks_for_no_other_type():
    recipe = load_recipe(MINI)
    document = deepspeed_json(recipe, recipe.stage("stage1"))
    assert "bf16" not in document
    assert "data_types" not in document


def test_what_is_wrong_by_default_is_set():
    recipe = load_recipe(MINI)
    document = deepspeed_json(recipe, recipe.stage("stage1"))
    assert document["zero_optimization"]["stage"] == 1
    assert document["pipeline"] == {"pipe_partitioned": False, "grad_partitioned": False, "use_reentrant": False}
    assert document["gradient_clipping"] == recipe.optimizer.clip
    assert document["steps_per_print"] == 100
