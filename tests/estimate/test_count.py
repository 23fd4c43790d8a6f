"""Parameters and FLOPs, golden for K2 and against a model counted by hand."""

from k2.model.count import count_parameters, flops_per_token, parameters
from k2.recipe.load import load_recipe
from k2.recipe.schema import Model


def test_k2_has_the_parameters_of_its_checkpoints() -> None:
    count = count_parameters(load_recipe("k2_65b").model)
    assert count.layer == 809_517_056
    assert count.total == 65_286_184_960
    assert count.without_embedding == 65_023_778_816


def test_a_small_model_counted_by_hand() -> None:
    model = Model(layers=2, hidden=8, ffn=12, heads=2, vocab_rows=10)
    query_key_value_output, gate_up_down, two_norms = 4 * 64, 3 * 96, 16
    assert parameters(model) == 2 * (query_key_value_output + gate_up_down + two_norms) + 8 + 2 * 80


def test_flops_of_a_token_in_each_convention() -> None:
    model = load_recipe("k2_65b").model
    base = flops_per_token(model, 2048)
    assert base == 6 * 65_286_184_960
    assert flops_per_token(model, 2048, "full") - base == 12 * 80 * 8192 * 2048
    assert 2 * (flops_per_token(model, 8192, "causal") - base) == flops_per_token(model, 8192, "full") - base
    assert round((flops_per_token(model, 8192, "full") / base - 1) * 100, 1) == 16.4
