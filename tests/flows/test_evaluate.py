"""Sweeps: one checkpoint's trouble holds up no other's scores, and one evaluation at a time is on a device."""

import fcntl
from pathlib import Path

import pytest
from leases import past_lease

from flows import work
from flows.device import device_held
from flows.pretrain import persist
from flows.run import Run
from flows.sweeping import score_chosen, settle_scores
from k2.eval.attempts import note_failure
from k2.eval.tasks import tasks_of
from k2.launch.evaluator import EvaluatorAnswer
from k2.launch.seats import FIRST_ON_CPU
from k2.recipe.load import load_recipe
from k2.recipe.place import Place
from k2.run.holdings import duty_folder
from k2.run.layout import RunLayout
from k2.run.ledger import AttemptEnded, AttemptStarted
from k2.run.opening import create_or_open
from k2.run.receipt import Receipt, commit_receipt_only, now, read_receipt, seal_folder

MINI = str(Path(__file__).parents[1] / "mini.toml")
NAMES = ("ckpt_001", "ckpt_002", "ckpt_003")
OWED = [task.name for task in tasks_of("k2_tiny") if not task.executes_code]


class RecordedEvaluator:
    """Answers as the evaluator's process does: one checkpoint cannot be exported, and one has a task that cannot be scored."""

    def __init__(self, layout: RunLayout) -> None:
        self.layout, self.asked = layout, []

    def ask(self, duty: str, checkpoint: str, suite: str | None = None, task: str | None = None) -> EvaluatorAnswer:
        self.asked.append((duty, checkpoint, suite, task))
        if checkpoint == "ckpt_002":
            return EvaluatorAnswer(id=1, ok=False, error="its logits differ", permanent=True)
        if (checkpoint, task) == ("ckpt_003", "addition"):
            return EvaluatorAnswer(id=1, ok=False, error="FileNotFoundError: addition.jsonl", permanent=True)
        if suite is None:
            commit_receipt_only(duty_folder(self.layout, checkpoint, duty), Receipt(kind=duty, name=checkpoint, recipe="r", made_at=now()))
        else:
            self._score(checkpoint, suite, str(task))
        return EvaluatorAnswer(id=1, ok=True)

    def _score(self, checkpoint: str, suite: str, task: str) -> None:
        inputs = {"export": read_receipt(self.layout.export(checkpoint)).digest, "suite": read_receipt(self.layout.suite(suite)).digest}
        receipt = Receipt(kind="task_scores", name=checkpoint, recipe="r", made_at=now(), inputs=inputs)
        commit_receipt_only(self.layout.task_scores(checkpoint, suite, task), receipt)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def run(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose first stage is trained, three checkpoints, nothing settled; no server to ask."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    recipe, layout = load_recipe(MINI), RunLayout(tmp_path / "mini")
    create_or_open(layout, recipe, Place())
    made = Run(recipe, Place(), layout, past_lease(layout), RecordedEvaluator(layout), None, said.append)  # type: ignore[arg-type]
    made.record(
        AttemptStarted(attempt=1, stage="stage1", checkpoint=None, first_step=1), AttemptEnded(attempt=1, outcome="completed", exit_code=0)
    )
    for number, name in enumerate(NAMES, 1):
        layout.checkpoint(name).mkdir(parents=True)
        facts = {"kind": "chunk", "stage": "stage1", "step": 8 * number, "tokens": 1}
        seal_folder(layout.checkpoint(name), Receipt(kind="checkpoint", name=name, recipe="r", made_at=now(), facts=facts))
    commit_receipt_only(layout.suite("k2_tiny"), Receipt(kind="suite", name="k2_tiny", recipe="r", made_at=now()))
    return made


def tasks_asked(run: Run) -> list[tuple[str, str, str]]:
    asked = run.evaluator.asked  # type: ignore[attr-defined]
    return [(checkpoint, suite, task) for _, checkpoint, suite, task in asked if task is not None]


def test_a_checkpoint_or_a_task_that_fails_is_told_and_the_others_are_scored(run: Run, said: list[str]) -> None:
    scored, failed = settle_scores(run, (), persist)
    assert scored == ["ckpt_001", "ckpt_003"]
    assert failed == {"ckpt_002": "EvaluationRefused: its logits differ"}
    assert "ckpt_003: addition could not be scored: FileNotFoundError: addition.jsonl" in said
    asked = tasks_asked(run)
    assert {checkpoint for checkpoint, _, _ in asked} == {"ckpt_001", "ckpt_003"}
    assert [task for checkpoint, _, task in asked if checkpoint == "ckpt_003"] == OWED
    before = len(run.evaluator.asked)  # type: ignore[attr-defined]
    assert settle_scores(run, ("ckpt_001", "ckpt_003"), persist) == ([], {})
    assert len(run.evaluator.asked) == before  # type: ignore[attr-defined]


def test_chosen_checkpoints_are_scored_with_chosen_suites_and_a_second_time_nothing_is_asked(run: Run) -> None:
    commit_receipt_only(run.layout.suite("k2_21"), Receipt(kind="suite", name="k2_21", recipe="r", made_at=now()))
    scored, failed = score_chosen(run, ("ckpt_001", "ckpt_002"), ("k2_tiny", "k2_21"), persist)
    assert scored == ["ckpt_001"]
    assert set(failed) == {"ckpt_002"}
    assert "k2_tiny: EvaluationRefused" in failed["ckpt_002"]
    assert "k2_21: EvaluationRefused" in failed["ckpt_002"]
    asked = tasks_asked(run)
    assert [task for _, suite, task in asked if suite == "k2_tiny"] == OWED
    assert {checkpoint for checkpoint, _, _ in asked} == {"ckpt_001"}
    assert score_chosen(run, ("ckpt_001",), ("k2_tiny", "k2_21"), persist) == (["ckpt_001"], {})
    assert tasks_asked(run) == asked


def test_a_task_that_failed_three_times_is_given_up_until_somebody_asks_for_it(run: Run) -> None:
    export = commit_receipt_only(run.layout.export("ckpt_001"), Receipt(kind="export", name="ckpt_001", recipe="r", made_at=now()))
    for _ in range(3):
        note_failure(run.layout, "ckpt_001", "k2_tiny", OWED[0], export.digest, RuntimeError("out of memory"))
    assert work.score_by_task(run, "ckpt_001", ("k2_tiny",), persist) == {}
    assert [task for _, _, task in tasks_asked(run)] == OWED[1:]
    assert score_chosen(run, ("ckpt_001",), ("k2_tiny",), persist) == (["ckpt_001"], {})
    assert tasks_asked(run)[-1] == ("ckpt_001", "k2_tiny", OWED[0])


def test_a_device_evaluates_one_thing_at_a_time(tmp_path: Path) -> None:
    with device_held(tmp_path, FIRST_ON_CPU, print):
        lock = tmp_path / ".evaluating-on-cpu"
        with lock.open("ab") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with lock.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
