"""Our model class answers lm-eval as lm-eval's own Hugging Face model does, on the same tasks."""

from collections.abc import Callable
from typing import Any

import pytest

from k2.eval.duties import Evaluator
from k2.eval.harness import LoadedSuite, ScoredModel, evaluate_suite, load_suite
from k2.eval.score import load_exported
from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout
from k2.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def suite(prepared: RunLayout) -> LoadedSuite:
    return load_suite(prepared.suite("k2_tiny"))


@pytest.fixture
def exported(recipe: Recipe, layout: RunLayout, save_checkpoint: Callable[..., None]) -> Any:
    save_checkpoint("ckpt_004", "stage2")
    Evaluator(recipe, layout).settle("ckpt_004", "exported")
    return load_exported(layout.export("ckpt_004"))


def test_scores_equal_those_of_lm_evals_own_model(recipe: Recipe, layout: RunLayout, suite: LoadedSuite, exported: Any) -> None:
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    theirs_tokenizer = AutoTokenizer.from_pretrained(layout.export("ckpt_004"))
    theirs_model = HFLM(
        pretrained=exported, tokenizer=theirs_tokenizer, batch_size=8, max_length=128, add_bos_token=False, prefix_token_id=2
    )
    theirs = evaluate_suite(theirs_model, suite)
    ours = evaluate_suite(ScoredModel(exported, Tokenizer(layout.tokenizer), 128), suite)

    assert ours["results"].keys() == theirs["results"].keys() == {"addition", "addition_choice", "bits_per_byte", "next_identifier"}
    for task, metrics in theirs["results"].items():
        for key, value in metrics.items():
            exactly = not isinstance(value, float) or key.startswith(("acc", "exact_match"))
            assert ours["results"][task][key] == (value if exactly else pytest.approx(value, rel=1e-4)), (task, key)
    for task, samples in theirs["samples"].items():
        for a, b in zip(ours["samples"][task], samples, strict=True):
            assert a["prompt_hash"] == b["prompt_hash"]
            assert_same_answers(a["filtered_resps"], b["filtered_resps"])


def assert_same_answers(ours: list[Any], theirs: list[Any]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(b, str):
            assert a == b or "\ufffd" in b  # broken UTF-8 is shown byte by byte here, run by run there
        elif isinstance(b, float):
            assert a == pytest.approx(b, rel=1e-5)
        else:
            assert a[0] == pytest.approx(b[0], abs=1e-4)
            assert a[1] == b[1]


def test_every_checkpoint_is_asked_the_same(layout: RunLayout, suite: LoadedSuite, exported: Any) -> None:
    model = ScoredModel(exported, Tokenizer(layout.tokenizer), 128)
    first, second = (evaluate_suite(model, suite) for _ in range(2))
    for task, samples in first["samples"].items():
        assert [s["prompt_hash"] for s in samples] == [s["prompt_hash"] for s in second["samples"][task]]
        assert [s["filtered_resps"] for s in samples] == [s["filtered_resps"] for s in second["samples"][task]]


def test_few_shot_examples_stand_in_the_prompt(layout: RunLayout, suite: LoadedSuite, exported: Any) -> None:
    results = evaluate_suite(ScoredModel(exported, Tokenizer(layout.tokenizer), 128), suite)
    prompt = results["samples"]["addition"][0]["arguments"][0][0]
    assert prompt.count(" + ") == 4
    assert prompt.count("\n") == 3
    assert results["n-shot"] == {"addition": 3, "addition_choice": 3, "bits_per_byte": 0, "next_identifier": 0}


def test_sampling_is_refused(layout: RunLayout, exported: Any) -> None:
    from lm_eval.api.instance import Instance

    model = ScoredModel(exported, Tokenizer(layout.tokenizer), 128)
    request = Instance("generate_until", {}, ("1 + 1 =", {"do_sample": True, "until": "\n"}), 0)
    with pytest.raises(ValueError, match="decodes greedily"):
        model.generate_until([request])


def test_a_generation_ends_before_its_stop_string_and_has_no_control_tokens(layout: RunLayout, exported: Any) -> None:
    from lm_eval.api.instance import Instance

    model = ScoredModel(exported, Tokenizer(layout.tokenizer), 128)
    whole = model.generate_until([Instance("generate_until", {}, ("The keeper", {"max_gen_toks": 20}), 0)])[0]
    assert len(whole) > 4
    stop = whole[3]
    cut = model.generate_until([Instance("generate_until", {}, ("The keeper", {"max_gen_toks": 20, "until": stop}), 0)])[0]
    assert cut == whole[: whole.index(stop)]
    assert "<" not in whole or "fim" not in whole
