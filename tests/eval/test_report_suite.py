"""All 21 rows of the report through the harness's own tasks, on a miniature mirror: a wrong task name, number of shots, metric or filter
cannot hide until a paid run."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from k2.eval.benchmarks import BENCHMARKS, benchmark
from k2.eval.desk import check_data
from k2.eval.duties import Evaluator
from k2.eval.jail import jail_missing
from k2.eval.mirror import missing_in
from k2.eval.scores import ScoreRow, read_scores
from k2.eval.suite import build_suite
from k2.eval.tasks import SuiteError, tasks_of
from k2.recipe.place import Place
from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout
from k2.run.receipt import read_receipt
from tests.eval.mirror_rows import BBH_CONFIGS, MMLU_CONFIGS, lay_mirror

# how an example begins in each task's prompt: counted, they are the shots and the question
MARKS = {
    "hellaswag": "Painting: A woman", "piqa": "Question: Dry wall", "arc_easy": "Question: Which", "arc_challenge": "Question: Which",
    "openbookqa": "A leaf", "truthfulqa_mc2": "Q: ", "gsm8k": "Question: ", "mathqa": "Question: what", "medmcqa": "Choices:\n",
    "mbpp": "[BEGIN]", "mbpp_pass_at_10": "[BEGIN]", "winogrande": "hung up the",
}  # fmt: skip
COUNTED = {"truthfulqa_mc2": 7}  # its own six examples


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_mirror(tmp_path_factory.mktemp("mirror"))


@pytest.mark.slow
def test_all_21_rows_are_scored(recipe: Recipe, layout: RunLayout, save_checkpoint: Callable[..., None], mirror: Path) -> None:
    place = Place(benchmarks_dir=str(mirror), run_generated_code=jail_missing() is None)
    suite = build_suite(recipe, place, layout, "k2_21")
    save_checkpoint("ckpt_004", "stage2", step=28)
    evaluator = Evaluator(recipe, layout, place)
    evaluator.settle("ckpt_004", "exported")
    receipts = evaluator.score_with("ckpt_004", "k2_21")

    rows = {(row.task, row.metric): row for row in read_scores(layout)}
    expected = [row for row in BENCHMARKS if jail_missing() is None or not row.executes_code]
    assert [r.facts["task"] for r in receipts] == [row.name for row in expected]
    for benchmark_ in expected:
        score = rows[benchmark_.name, benchmark_.metric]
        assert score.shots == benchmark_.shots, benchmark_.name
        assert 0 <= score.value <= 1
        assert (score.suite, score.stage, score.checkpoint) == ("k2_21", "stage2", "ckpt_004")
        assert score.harness == "lm_eval 0.4.13"
        assert score.data == suite.facts["data"][benchmark_.data_set]
        prompts = [question["prompt"] for question in questions(layout, benchmark_.name)]
        if benchmark_.name in MARKS:
            counted = COUNTED.get(benchmark_.name, benchmark_.shots + 1)
            assert {prompt.count(MARKS[benchmark_.name]) for prompt in prompts} == {counted}, benchmark_.name
    assert_groups(layout)
    assert_directions(rows)
    assert evaluator.score_with("ckpt_004", "k2_21") == receipts  # nothing is asked again
    assert not any(path.name.startswith(("downloads", "hub")) for path in Path(os.environ["HF_HOME"]).iterdir())


def questions(layout: RunLayout, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (layout.questions("k2_21", task) / "questions.jsonl").open()]


def assert_groups(layout: RunLayout) -> None:
    """Every leaf is asked, and the group's value is their mean by size."""
    for name, leaves, metric in (("mmlu", MMLU_CONFIGS, "acc,none"), ("bbh_cot_zeroshot", BBH_CONFIGS, "exact_match,flexible-extract")):
        facts = read_receipt(layout.task_scores("ckpt_004", "k2_21", name)).facts
        assert set(facts["parts"]) == {f"{name}_{leaf}" for leaf in leaves}
        values = [part[metric] for part in facts["parts"].values()]
        [score] = [s for s in facts["scores"] if s["metric"] == benchmark(name).metric]
        assert score["value"] == pytest.approx(sum(values) / len(values))
        assert score["samples"] == len(leaves)


def assert_directions(rows: dict[tuple[str, str], ScoreRow]) -> None:
    assert {task for (task, _), row in rows.items() if not row.higher_is_better} == {"crows_pairs_english"}


def test_a_place_without_the_data_sets_says_which_are_missing(recipe: Recipe, tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "run")
    with pytest.raises(SuiteError, match=r"names no folder that holds them.*k2 eval fetch"):
        build_suite(recipe, Place(), layout, "k2_21")
    mirror = lay_mirror(tmp_path / "mirror")
    assert missing_in(mirror) == []
    for path in (mirror / "openai" / "gsm8k").rglob("*.jsonl"):
        path.unlink()
    assert missing_in(mirror) == ["openai/gsm8k"]
    with pytest.raises(SuiteError, match="lacks 1 data sets of the suite k2_21: openai/gsm8k;"):
        build_suite(recipe, Place(benchmarks_dir=str(mirror)), layout, "k2_21")


def test_a_data_set_that_changed_under_a_run_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "run")
    own = lay_mirror(tmp_path / "mirror")
    place = Place(benchmarks_dir=str(own))
    build_suite(recipe, place, layout, "k2_21")
    race = own / "EleutherAI" / "race" / "high" / "test.jsonl"
    race.write_text(race.read_text().replace("blue", "grey"))
    suite = read_receipt(layout.suite("k2_21"))
    changed = []
    for task in tasks_of("k2_21"):
        try:
            check_data(suite, place, task)
        except SuiteError as error:
            changed.append((task.name, "has changed since" in str(error)))
    assert changed == [("race", True)]
