"""A scored checkpoint has its receipt, its samples and its rows; scoring it again costs nothing."""

import json
from collections.abc import Callable

import pytest

from k2.eval.duties import Evaluator
from k2.eval.scores import ScoreRow, read_scores
from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout
from k2.run.receipt import BrokenOutput, check_files, read_receipt

METRICS = {
    ("addition", 3, "exact_match"): True,
    ("addition_choice", 3, "acc"): True,
    ("addition_choice", 3, "acc_norm"): True,
    ("bits_per_byte", 0, "bits_per_byte"): False,
    ("bits_per_byte", 0, "byte_perplexity"): False,
    ("names_used", 0, "mc2"): True,
    ("next_identifier", 0, "acc"): True,
    ("next_identifier", 0, "acc_norm"): True,
    ("swapped_words", 0, "pct_original"): True,
    ("swapped_words", 0, "likelihood_diff"): True,
}


NOT_ALLOWED = "it runs programs that the model wrote, which the place does not allow (run_generated_code)"


@pytest.fixture
def evaluator(recipe: Recipe, layout: RunLayout, save_checkpoint: Callable[..., None]) -> Evaluator:
    save_checkpoint("ckpt_001", "stage1", step=8, seed=1)
    save_checkpoint("ckpt_004", "stage2", step=28, seed=2)
    evaluator = Evaluator(recipe, layout)
    for name in ("ckpt_004", "ckpt_001"):
        evaluator.settle(name, "exported")
        evaluator.settle(name, "evaluated")
    return evaluator


def test_a_scored_checkpoint_in_full(evaluator: Evaluator, layout: RunLayout) -> None:
    receipt = read_receipt(layout.scores("ckpt_004"))
    suite = read_receipt(layout.suite("k2_tiny"))
    assert receipt.inputs == {"export": read_receipt(layout.export("ckpt_004")).digest, "k2_tiny": suite.digest}
    assert {key: receipt.facts[key] for key in ("stage", "step", "tokens", "suite")} == {
        "stage": "stage2", "step": 28, "tokens": 3584, "suite": "k2_tiny",
    }  # fmt: skip
    assert receipt.facts["harness"] == "lm_eval 0.4.13"
    assert receipt.facts["failed"] == {}
    assert receipt.facts["not_owed"] == {"write_function": NOT_ALLOWED}
    assert check_files(layout.scores("ckpt_004"), receipt) == []
    tasks = {*(task for task, _, _ in METRICS), "prompt_gallery"}
    assert {file.path for file in receipt.files} == {f"samples_{task}.jsonl" for task in tasks}

    rows = read_scores(layout)
    assert [row.checkpoint for row in rows] == ["ckpt_001"] * len(METRICS) + ["ckpt_004"] * len(METRICS)
    for row in rows:
        assert row.higher_is_better == METRICS[row.task, row.shots, row.metric]
        assert row.stage == {"ckpt_001": "stage1", "ckpt_004": "stage2"}[row.checkpoint]
        assert (row.stderr is not None) == (row.task != "bits_per_byte" and row.samples > 1)
        assert (row.harness, row.data) == ("lm_eval 0.4.13", suite.digest)
    assert_values_follow_from_samples([row for row in rows if row.checkpoint == "ckpt_004"], layout)
    assert len({row.value for row in rows if row.metric == "bits_per_byte"}) == 2
    assert_again_costs_nothing(evaluator, layout)


def assert_values_follow_from_samples(rows: list[ScoreRow], layout: RunLayout) -> None:
    """Mean of the samples' metrics; for bits per byte nats over bytes."""
    for row in rows:
        samples = [json.loads(line) for line in (layout.scores("ckpt_004") / f"samples_{row.task}.jsonl").open()]
        assert len(samples) == row.samples
        assert [s["doc_id"] for s in samples] == list(range(row.samples))
        values = [s["metrics"][row.metric] for s in samples]
        if row.metric in ("bits_per_byte", "byte_perplexity"):
            bits = -sum(nats for nats, _ in values) / sum(size for _, size in values) / 0.6931471805599453
            assert row.value == pytest.approx(bits if row.metric == "bits_per_byte" else 2**bits)
        else:
            assert row.value == pytest.approx(sum(values) / len(values))
        if row.task == "next_identifier":
            assert all(len(s["responses"]) == 4 and s["document"] for s in samples)
            assert all(isinstance(nats, float) and nats < 0 for s in samples for nats, _ in s["responses"])


def assert_again_costs_nothing(evaluator: Evaluator, layout: RunLayout) -> None:
    before = {p: p.stat().st_mtime_ns for p in layout.all_scores.rglob("*")}
    layout.export("ckpt_004").rename(layout.root / "put_aside")  # it is not even looked at
    assert evaluator.settle("ckpt_004", "evaluated") == read_receipt(layout.scores("ckpt_004"))
    assert {p: p.stat().st_mtime_ns for p in layout.all_scores.rglob("*")} == before


def test_no_export_no_scores(recipe: Recipe, layout: RunLayout, save_checkpoint: Callable[..., None]) -> None:
    save_checkpoint("ckpt_002")
    with pytest.raises(BrokenOutput, match="exports/ckpt_002"):
        Evaluator(recipe, layout).settle("ckpt_002", "evaluated")
    assert read_scores(layout) == []
