"""Our model class answers lm-eval as lm-eval's own Hugging Face model does, on the same tasks."""

from collections.abc import Callable
from typing import Any

import pytest

from k2.eval.duties import Evaluator
from k2.eval.harness import LoadedTask, ScoredModel, evaluate_task, load_task
from k2.eval.score import load_exported
from k2.eval.tasks import tasks_of
from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout
from k2.tokenizer import Tokenizer

GREEDY = ("addition", "addition_choice", "bits_per_byte", "names_used", "next_identifier", "prompt_gallery", "swapped_words")


@pytest.fixture(scope="module")
def tasks(prepared: RunLayout) -> dict[str, LoadedTask]:
    folder = prepared.suite("k2_tiny")
    return {task.name: load_task(task, folder, folder) for task in tasks_of("k2_tiny") if task.name in GREEDY}


@pytest.fixture
def exported(recipe: Recipe, layout: RunLayout, save_checkpoint: Callable[..., None]) -> Any:
    save_checkpoint("ckpt_004", "stage2")
    Evaluator(recipe, layout).settle("ckpt_004", "exported")
    return load_exported(layout.export("ckpt_004"))


def test_scores_equal_those_of_lm_evals_own_model(recipe: Recipe, layout: RunLayout, tasks: dict[str, LoadedTask], exported: Any) -> None:
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    theirs_tokenizer = AutoTokenizer.from_pretrained(layout.export("ckpt_004"))
    theirs_model = HFLM(
        pretrained=exported, tokenizer=theirs_tokenizer, batch_size=8, max_length=128, add_bos_token=False, prefix_token_id=2
    )
    ours_model = ScoredModel(exported, Tokenizer(layout.tokenizer), 128)
    for name, task in tasks.items():
        theirs = evaluate_task(theirs_model, task, layout.suite("k2_tiny"))
        ours = evaluate_task(ours_model, task, layout.suite("k2_tiny"))
        assert ours["results"].keys() == theirs["results"].keys() == {name}
        for key, value in theirs["results"][name].items():
            exactly = not isinstance(value, float) or key.startswith(("acc", "exact_match"))
            assert ours["results"][name][key] == (value if exactly else pytest.approx(value, rel=1e-4, abs=1e-4)), (name, key)
        for a, b in zip(ours["samples"][name], theirs["samples"][name], strict=True):
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


def test_every_checkpoint_is_asked_the_same(layout: RunLayout, tasks: dict[str, LoadedTask], exported: Any) -> None:
    model = ScoredModel(exported, Tokenizer(layout.tokenizer), 128)
    for name, task in tasks.items():
        first, second = (evaluate_task(model, task, layout.suite("k2_tiny"))["samples"][name] for _ in range(2))
        assert [s["prompt_hash"] for s in first] == [s["prompt_hash"] for s in second]
        assert [s["filtered_resps"] for s in first] == [s["filtered_resps"] for s in second]


def test_few_shot_examples_stand_in_the_prompt(layout: RunLayout, tasks: dict[str, LoadedTask], exported: Any) -> None:
    results = evaluate_task(ScoredModel(exported, Tokenizer(layout.tokenizer), 128), tasks["addition"], layout.suite("k2_tiny"))
    prompt = results["samples"]["addition"][0]["arguments"][0][0]
    assert prompt.count(" + ") == 4
    assert prompt.count("\n") == 3
    assert results["n-shot"] == {"addition": 3}


def test_samples_of_one_prompt_differ_and_are_drawn_again_alike(layout: RunLayout, exported: Any) -> None:
    from lm_eval.api.instance import Instance

    model = ScoredModel(exported, Tokenizer(layout.tokenizer), 128)
    settings = {"do_sample": True, "temperature": 1.5, "max_gen_toks": 12}
    request, other = (Instance("generate_until", {}, (prompt, settings), 0) for prompt in ("The keeper", "1 + 1 ="))
    first = model.generate_until([request, request, other])
    assert first[0] != first[1]
    assert model.generate_until([other, request, request]) == [first[2], first[0], first[1]]
    cold = Instance("generate_until", {}, ("The keeper", {"do_sample": True, "temperature": -1.0}), 0)
    with pytest.raises(ValueError, match="cannot be sampled with"):
        model.generate_until([cold])


def test_a_generation_ends_before_its_stop_string_and_has_no_control_tokens(layout: RunLayout, exported: Any) -> None:
    from lm_eval.api.instance import Instance

    model = ScoredModel(exported, Tokenizer(layout.tokenizer), 128)
    whole = model.generate_until([Instance("generate_until", {}, ("The keeper", {"max_gen_toks": 20}), 0)])[0]
    assert len(whole) > 4
    stop = whole[3]
    cut = model.generate_until([Instance("generate_until", {}, ("The keeper", {"max_gen_toks": 20, "until": stop}), 0)])[0]
    assert cut == whole[: whole.index(stop)]
    assert "<" not in whole or "fim" not in whole
