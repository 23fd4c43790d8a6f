"""An export computes what its checkpoint computes, says how it was trained, and is refused when it does not."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from k2.checkpoint.huggingface import LOGIT_TOLERANCE, ExportRefused, config, export_checkpoint, shards, write_weights
from k2.checkpoint.weights import write_weights_as_state
from k2.model.layers import build_plain, weights_of
from k2.recipe.load import digest, load_recipe
from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout
from k2.run.receipt import BrokenOutput, Receipt, check_files, now, read_receipt, seal_folder

MINI = str(Path(__file__).parents[1] / "mini.toml")


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    """A run with a chunk of made-up rows for each stage."""
    layout = RunLayout(tmp_path / "mini-1")
    random = np.random.default_rng(0)
    for stage in load_recipe(MINI).stages:
        layout.chunks(stage.name).mkdir(parents=True)
        random.integers(3, 358, size=4 * stage.context).astype("<u2").tofile(layout.chunk(stage.name, 0))
    return layout


def save_checkpoint(recipe: Recipe, layout: RunLayout, name: str, stage: str = "stage1", seed: int = 7) -> torch.nn.Module:
    """A committed checkpoint in the engine's layer files; its model."""
    dtype = torch.bfloat16 if recipe.layout.precision == "bf16" else torch.float32
    model = build_plain(recipe.model, recipe.stage(stage).rope_base, seed).to(dtype)
    write_weights_as_state(layout.checkpoint(name), weights_of(model, recipe.model))
    facts = {"kind": "chunk", "stage": stage, "step": 8, "tokens": 1024}
    seal_folder(layout.checkpoint(name), Receipt(kind="checkpoint", name=name, recipe=digest(recipe), made_at=now(), facts=facts))
    return model


def write_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize(("stage", "context", "rope_base"), [("stage1", 32, 10_000.0), ("stage2", 128, 500_000.0)])
def test_the_export_loads_in_transformers_and_agrees(layout: RunLayout, stage: str, context: int, rope_base: float) -> None:
    from transformers import AutoModelForCausalLM

    recipe = load_recipe(MINI)
    own = save_checkpoint(recipe, layout, "ckpt_001", stage)
    receipt = export_checkpoint(recipe, layout, "ckpt_001", write_no_tokenizer)
    assert receipt.facts["max_abs_logit_difference"] <= 1e-5
    assert receipt.facts["parameters"] == sum(p.numel() for p in own.parameters())
    assert (receipt.facts["stage"], receipt.facts["context"], receipt.facts["dtype"]) == (stage, context, "float32")
    assert receipt.inputs == {"checkpoint": read_receipt(layout.checkpoint("ckpt_001")).digest}
    assert check_files(layout.export("ckpt_001"), receipt) == []

    loaded = AutoModelForCausalLM.from_pretrained(layout.export("ckpt_001"))
    assert loaded.config.max_position_embeddings == context
    assert loaded.config.rope_parameters["rope_theta"] == rope_base
    assert loaded.dtype == torch.float32
    rows = torch.randint(3, 358, (2, context), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(loaded(rows).logits, own(rows), atol=1e-5, rtol=0)


def test_a_bf16_run_is_exported_in_bfloat16_without_a_changed_bit(layout: RunLayout) -> None:
    from safetensors.torch import load_file

    recipe = load_recipe(MINI, ("layout.precision=bf16",))
    own = save_checkpoint(recipe, layout, "ckpt_001")
    receipt = export_checkpoint(recipe, layout, "ckpt_001", write_no_tokenizer)
    written = load_file(layout.export("ckpt_001") / "model.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in weights_of(own, recipe.model).items())
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    assert receipt.facts["max_abs_logit_difference"] <= 1e-5
    assert 0 < receipt.facts["relative_logit_difference_bf16"] <= 0.05
    assert json.loads((layout.export("ckpt_001") / "config.json").read_text())["dtype"] == "bfloat16"


def test_an_export_that_computes_something_else_is_refused_and_leaves_nothing(layout: RunLayout) -> None:
    recipe = load_recipe(MINI)
    save_checkpoint(recipe, layout, "ckpt_001")

    def write_another_rope_base(folder: Path) -> None:
        stage2 = config(recipe.model, recipe.stage("stage2"), "float32")
        (folder / "config.json").write_text(json.dumps(stage2))

    with pytest.raises(ExportRefused, match=r"ckpt_001 is refused: its logits differ .* more than 0\.0001"):
        export_checkpoint(recipe, layout, "ckpt_001", write_another_rope_base)
    assert list(layout.exports.iterdir()) == []
    assert LOGIT_TOLERANCE == 1e-4


def test_a_second_export_costs_nothing(layout: RunLayout) -> None:
    recipe = load_recipe(MINI)
    save_checkpoint(recipe, layout, "ckpt_001")
    first = export_checkpoint(recipe, layout, "ckpt_001", write_no_tokenizer)

    def not_again(folder: Path) -> None:
        raise AssertionError(f"{folder} was exported again")

    assert export_checkpoint(recipe, layout, "ckpt_001", not_again) == first


def test_an_export_of_an_abandoned_checkpoint_does_not_stand_for_the_new_one(layout: RunLayout) -> None:
    recipe = load_recipe(MINI)
    save_checkpoint(recipe, layout, "ckpt_001")
    export_checkpoint(recipe, layout, "ckpt_001", write_no_tokenizer)
    layout.checkpoint("ckpt_001").rename(layout.root / "abandoned")
    save_checkpoint(recipe, layout, "ckpt_001", seed=8)
    with pytest.raises(BrokenOutput, match="made from another checkpoint of that name"):
        export_checkpoint(recipe, layout, "ckpt_001", write_no_tokenizer)


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda layout: (layout.checkpoint("ckpt_001") / "state" / "rank_00000.safetensors").unlink(), "no share of a state"),
    (lambda layout: layout.chunk("stage1", 0).unlink(), r"chunk_000\.bin does not exist"),
    (lambda layout: (layout.checkpoint("ckpt_001") / "receipt.json").unlink(), "no receipt was never finished"),
])  # fmt: skip
def test_what_is_missing_is_named(layout: RunLayout, spoil: Callable[[RunLayout], None], message: str) -> None:
    recipe = load_recipe(MINI)
    save_checkpoint(recipe, layout, "ckpt_001")
    spoil(layout)
    with pytest.raises(BrokenOutput, match=message):
        export_checkpoint(recipe, layout, "ckpt_001", write_no_tokenizer)


def test_shards_keep_the_order_and_the_limit() -> None:
    assert shards({"a": 3, "b": 3, "c": 3}, limit=100) == [["a", "b", "c"]]
    assert shards({"a": 3, "b": 3, "c": 3}, limit=6) == [["a", "b"], ["c"]]
    assert shards({"a": 9, "b": 1, "c": 1}, limit=6) == [["a"], ["b", "c"]]


def test_a_sharded_export_loads_as_the_whole(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    recipe = load_recipe(MINI)
    own = build_plain(recipe.model, 10_000.0, seed=3)
    write_weights(tmp_path, weights_of(own, recipe.model), shard_bytes=60_000)
    (tmp_path / "config.json").write_text(json.dumps(config(recipe.model, recipe.stages[0], "float32")))
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    rows = torch.arange(3, 35)[None]
    with torch.inference_mode():
        torch.testing.assert_close(loaded(rows).logits, own(rows), atol=1e-5, rtol=0)
