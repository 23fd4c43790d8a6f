"""A scored checkpoint has its receipt, its samples and its rows; scoring it again costs nothing."""

import json
import shutil
from collections.abc import Callable

import pytest
import torch

from k2.eval.duties import Evaluator, TasksFailed
from k2.eval.jail import jail_missing
from k2.eval.scores import ScoreRow, read_scores, task_receipts
from k2.recipe.place import Place
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


def test_a_task_that_fails_three_times_is_marked_and_holds_up_no_other(
    recipe: Recipe, layout: RunLayout, save_checkpoint: Callable[..., None]
) -> None:
    take_away_sums(layout)
    save_checkpoint("ckpt_001")
    evaluator = Evaluator(recipe, layout)
    evaluator.settle("ckpt_001", "exported")
    for _ in range(2):
        with pytest.raises(TasksFailed, match="2 tasks could not be scored: addition: FileNotFoundError"):
            evaluator.settle("ckpt_001", "evaluated")
        evaluator = Evaluator(recipe, layout)  # another process counts on
    done = {receipt.facts["task"]: receipt.made_at for receipt in task_receipts(layout)}
    assert set(done) == {task for task, _, _ in METRICS} - {"addition", "addition_choice"} | {"prompt_gallery"}
    closed = evaluator.settle("ckpt_001", "evaluated")
    assert set(closed.facts["failed"]) == {"addition", "addition_choice"}
    assert "addition.jsonl" in closed.facts["failed"]["addition"]
    assert set(closed.facts["tasks"]) == set(done)
    assert {receipt.facts["task"]: receipt.made_at for receipt in task_receipts(layout)} == done  # made once
    assert evaluator.settle("ckpt_001", "evaluated") == closed


def take_away_sums(layout: RunLayout) -> None:
    shutil.copytree(layout.all_suites, layout.root / "own")
    layout.all_suites.unlink()
    (layout.root / "own").rename(layout.all_suites)
    (layout.suite("k2_tiny") / "addition.jsonl").unlink()


def test_a_checkpoint_made_anew_is_scored_anew(recipe: Recipe, layout: RunLayout, save_checkpoint: Callable[..., None]) -> None:
    values = []
    for seed in (1, 2):
        save_checkpoint("ckpt_001", seed=seed)
        evaluator = Evaluator(recipe, layout)
        evaluator.settle("ckpt_001", "exported")
        evaluator.settle("ckpt_001", "evaluated")
        values.append([row.value for row in read_scores(layout)])
        for folder in (layout.checkpoint, layout.export, layout.scores):  # as an incident sets it aside
            shutil.rmtree(folder("ckpt_001"))
    assert values[0] != values[1]
    assert len(values[0]) == len(values[1]) == len(METRICS)


@pytest.mark.skipif(jail_missing() is not None, reason=f"no jail works here: {jail_missing()}")
def test_programs_are_run_where_the_place_allows_it(recipe: Recipe, layout: RunLayout, save_checkpoint: Callable[..., None]) -> None:
    save_checkpoint("ckpt_001")
    evaluator = Evaluator(recipe, layout, Place(run_generated_code=True))
    evaluator.settle("ckpt_001", "exported")
    closed = evaluator.settle("ckpt_001", "evaluated")
    assert closed.facts["not_owed"] == {}
    scores = {s["metric"]: s for s in closed.facts["scores"] if s["task"] == "write_function"}
    assert set(scores) == {"pass@1,every_answer", "pass@2,every_answer"}
    lines = (layout.scores("ckpt_001") / "samples_write_function.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert len(first["responses"][0]) == 4
    assert all(program.startswith("def add(a, b):\n    return") for program in first["responses"][0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused(recipe: Recipe, layout: RunLayout, save_checkpoint: Callable[..., None]) -> None:
    save_checkpoint("ckpt_001")
    evaluator = Evaluator(recipe, layout, device="cuda")
    evaluator.settle("ckpt_001", "exported")
    with pytest.raises(ValueError, match="no CUDA device is to be seen here"):
        evaluator.settle("ckpt_001", "evaluated")


def test_no_export_no_scores(recipe: Recipe, layout: RunLayout, save_checkpoint: Callable[..., None]) -> None:
    save_checkpoint("ckpt_002")
    with pytest.raises(BrokenOutput, match="exports/ckpt_002"):
        Evaluator(recipe, layout).settle("ckpt_002", "evaluated")
    assert read_scores(layout) == []
