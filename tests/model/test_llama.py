"""The model: against Hugging Face's Llama, and in what it promises of itself.

Shapes: B samples, T positions, K head width.
"""

import math

import pytest
import torch
from hugging_face import hugging_face_llama

from k2.model.layers import build_plain, layer_prefixes, set_weights, weights_of
from k2.model.llama import IGNORED, mean_loss, next_tokens
from k2.recipe.schema import Model

SMALL = Model(layers=2, hidden=32, ffn=88, heads=4, vocab_rows=97)


@pytest.mark.parametrize(("rope_base", "context"), [(10_000.0, 64), (500_000.0, 256)])
def test_logits_equal_hugging_face(rope_base, context):
    torch.manual_seed(0)
    ours, theirs = build_plain(SMALL, rope_base, seed=3), hugging_face_llama(SMALL, rope_base, context)
    theirs.load_state_dict(weights_of(ours, SMALL), strict=True)
    tokens_BT = torch.randint(0, SMALL.vocab_rows, (2, context))
    with torch.no_grad():
        difference = (ours(tokens_BT) - theirs(tokens_BT).logits).abs().max().item()
    assert difference <= 1e-6


def test_the_rope_base_matters():
    tokens_BT = torch.arange(64)[None]
    with torch.no_grad():
        near, far = (build_plain(SMALL, base, seed=3)(tokens_BT) for base in (10_000.0, 500_000.0))
    assert (near - far).abs().max() > 1e-5


def test_attention_looks_back_only():
    torch.manual_seed(0)
    model, tokens_BT = build_plain(SMALL, 10_000.0, seed=3), torch.randint(0, SMALL.vocab_rows, (1, 32))
    changed_BT = tokens_BT.clone()
    changed_BT[0, 20] = (changed_BT[0, 20] + 1) % SMALL.vocab_rows
    with torch.no_grad():
        difference_T = (model(tokens_BT) - model(changed_BT)).abs().amax(dim=(0, 2))
    assert difference_T[:20].max() == 0.0
    assert difference_T[20] > 0.0


def test_weights_come_from_their_own_seeds():
    deeper = Model(layers=3, hidden=32, ffn=88, heads=4, vocab_rows=97)
    two, three = weights_of(build_plain(SMALL, 1e4, seed=5), SMALL), weights_of(build_plain(deeper, 1e4, seed=5), deeper)
    assert torch.equal(two["model.layers.1.mlp.up_proj.weight"], three["model.layers.1.mlp.up_proj.weight"])
    assert not torch.equal(two["model.layers.0.mlp.up_proj.weight"], two["model.layers.1.mlp.up_proj.weight"])
    other = weights_of(build_plain(SMALL, 1e4, seed=6), SMALL)
    assert not torch.equal(two["lm_head.weight"], other["lm_head.weight"])


def test_initial_spread():
    model = Model(layers=8, hidden=256, ffn=688, heads=4, vocab_rows=512, init_std=0.02)
    weights = weights_of(build_plain(model, 1e4), model)
    assert weights["model.layers.7.self_attn.q_proj.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    for output in ("self_attn.o_proj", "mlp.down_proj"):  # two write into the residual stream in each layer
        assert weights[f"model.layers.7.{output}.weight"].std().item() == pytest.approx(0.02 / math.sqrt(16), rel=0.02)
    assert torch.equal(weights["model.norm.weight"], torch.ones(256))


def test_a_row_holds_one_target_fewer_than_tokens():
    labels_BT = next_tokens(torch.tensor([[5, 6, 7], [1, 2, 3]]))
    assert labels_BT.tolist() == [[6, 7, IGNORED], [2, 3, IGNORED]]


def test_loss_is_the_mean_over_targets():
    logits_BTV = torch.zeros(2, 3, 4)
    logits_BTV[0, 0, 1] = 2.0
    labels_BT = torch.tensor([[1, 0, IGNORED], [2, 3, IGNORED]])
    expected = (3 * math.log(4) + math.log(3 + math.exp(2.0)) - 2.0) / 4
    assert mean_loss(logits_BTV, labels_BT).item() == pytest.approx(expected, rel=1e-6)


def test_weights_that_do_not_fit_are_refused():
    plain = build_plain(SMALL, 1e4)
    weights = weights_of(plain, SMALL)
    with pytest.raises(ValueError, match="lm_head"):
        set_weights(plain, SMALL, {name: w for name, w in weights.items() if name != "lm_head.weight"})
    with pytest.raises(ValueError, match="embed_tokens"):
        set_weights(plain, SMALL, weights | {"model.embed_tokens.weight": torch.zeros(98, 32)})


def test_weights_there_and_back():
    source, target = build_plain(SMALL, 1e4, seed=1), build_plain(SMALL, 1e4, seed=2)
    set_weights(target, SMALL, {name: w.clone() for name, w in weights_of(source, SMALL).items()})
    tokens_BT = torch.arange(32)[None]
    assert torch.equal(source(tokens_BT), target(tokens_BT))


def test_one_prefix_a_layer():
    assert len(layer_prefixes(SMALL)) == len(build_plain(SMALL, 1e4).layers) == SMALL.layers + 3
