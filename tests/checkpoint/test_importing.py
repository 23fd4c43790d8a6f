"""An existing Llama becomes what a run starts from, or is refused by the name of what it is not."""

import json

import pytest
import torch

from flows.importing import import_run
from k2.checkpoint.importing import ImportRefused
from k2.checkpoint.select import verify
from k2.checkpoint.weights import read_weights
from k2.run.holdings import read_holdings
from k2.run.layout import RunLayout
from k2.run.ledger import read_facts
from k2.run.opening import open_run
from k2.run.plan import Prepare, Train, next_action, next_segment


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A small Llama as transformers itself writes it, in several shards."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(3)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=1536, rms_norm_eps=1e-5,
        max_position_embeddings=512, tie_word_embeddings=False, rope_theta=20_000.0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder, max_shard_size="300KB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    return folder, model.eval()


def imported(folder, root, recipe=None, *overrides):
    layout = RunLayout(root / "run")
    return layout, import_run(layout, folder, recipe, overrides, None, lambda line: None)


def test_a_run_starts_from_it(llama, tmp_path):
    folder, model = llama
    layout, receipt = imported(folder, tmp_path)
    assert receipt.facts["max_abs_logit_difference"] <= 1e-5
    assert verify(layout, "ckpt_000") == []
    weights = read_weights(layout.checkpoint("ckpt_000"))
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    recipe, _ = open_run(layout)
    assert (recipe.model.ffn, recipe.stages[0].rope_base) == (96, 20_000.0)
    facts = read_facts(layout.ledger)
    holdings = read_holdings(recipe, layout, facts)
    assert next_action(recipe, facts, holdings) == Prepare()
    assert next_segment(recipe, facts, holdings, recipe.stages[0]) == Train("stage1", 1, "ckpt_000", 1)


@pytest.mark.parametrize(("field", "value", "says"), [
    ("tie_word_embeddings", True, "tie_word_embeddings = True, must be False"),
    ("num_key_value_heads", 2, "num_key_value_heads = 2, must be num_attention_heads = 4"),
    ("model_type", "mistral", "model_type = 'mistral', must be 'llama'"),
    ("hidden_act", "gelu", "hidden_act = 'gelu', must be 'silu'"),
    ("rope_parameters", {"rope_type": "yarn"}, "rope_type = 'yarn', must be 'default'"),
])  # fmt: skip
def test_what_our_model_cannot_be_is_refused_by_name(llama, tmp_path, field, value, says):
    config = json.loads((llama[0] / "config.json").read_text()) | {field: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ImportRefused, match=says):
        imported(tmp_path, tmp_path)


def test_a_recipe_of_another_model_is_refused_field_by_field(llama, tmp_path):
    with pytest.raises(
        ImportRefused, match=r"model\.layers = 4, the config says 2; .*stages\.stage1\.rope_base = 10000, the config says 20000"
    ):
        imported(llama[0], tmp_path, "k2_tiny")
    same = ("model.layers=2", "model.ffn=96", "stages.stage1.rope_base=20000.0")
    assert imported(llama[0], tmp_path, "k2_tiny", *same)[1].name == "ckpt_000"


def test_nothing_is_imported_over_a_run(llama, tmp_path):
    imported(llama[0], tmp_path)
    with pytest.raises(ValueError, match="there is a run at"):
        imported(llama[0], tmp_path)
