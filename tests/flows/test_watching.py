"""The watcher beside a segment: started again when it fails, and in the mode `observe` a recorder as verdicts fall."""

import threading
from pathlib import Path

import pytest
from leases import past_lease

from flows.run import Run
from flows.training import Beside, watch_to_the_end
from flows.work import watch
from k2.recipe.load import load_recipe
from k2.recipe.place import Place
from k2.run.control import StopRequest, read_stop_request
from k2.run.layout import RunLayout
from k2.run.ledger import AttemptStarted, IncidentClosed, IncidentDecided, IncidentOpened
from k2.run.opening import create_or_open
from k2.run.plan import Train, open_incident
from k2.run.receipt import read_receipt
from k2.run.records import StepRecord

MINI = str(Path(__file__).parents[1] / "mini.toml")
TRAIN = Train("stage1", 1, None, 1)
SPIKES = ((60, 75), (110, 125))  # first and last step


def opened_run(tmp_path: Path, mode: str) -> Run:
    """A run in its first attempt, whose loss rose twice for longer than is benign."""
    overrides = ("stages.stage1.steps_per_chunk=60", "spikes.persistence_steps=8", f'spikes.mode="{mode}"')
    recipe, layout = load_recipe(MINI, overrides), RunLayout(tmp_path / "mini")
    create_or_open(layout, recipe, Place())
    run = Run(recipe, Place(), layout, past_lease(layout), None, None, lambda _line: None)  # type: ignore[arg-type]
    run.record(AttemptStarted(attempt=1, stage="stage1", checkpoint=None, first_step=1))
    path = layout.metrics("stage1", 1)
    path.parent.mkdir(parents=True)
    path.write_text("".join(_record(step).line() for step in range(1, 161)))
    return run


def _record(step: int) -> StepRecord:
    risen = any(first <= step <= last for first, last in SPIKES)
    return StepRecord(1, "stage1", step, 4.0 + 0.01 * (step % 3) + 3.0 * risen, 1.0, 1e-3, 128 * step, 0.1)


@pytest.fixture
def ended() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def test_a_watcher_that_fails_is_started_again_and_asks_once(tmp_path: Path) -> None:
    run, ended, lives = opened_run(tmp_path, "auto"), threading.Event(), []

    def fail_at_first(action: Train, stop: threading.Event) -> None:
        lives.append(len(lives))
        if len(lives) == 1:
            raise OSError("the file system was away")
        watch(run, action, stop)
        ended.set()

    watch_to_the_end(run, TRAIN, Beside(lambda _record: None, lambda: None, fail_at_first, lambda _name, _follow: None), ended)
    assert len(lives) == 2
    assert read_stop_request(run.layout) == StopRequest(1, "verdict")


def test_observing_records_each_verdict_as_it_falls_and_training_goes_on(tmp_path: Path, ended: threading.Event) -> None:
    run = opened_run(tmp_path, "observe")
    watch(run, TRAIN, ended)
    facts = run.facts()
    assert [(f.incident, f.attempt) for f in facts if isinstance(f, IncidentOpened)] == [(1, 1), (2, 1)]
    assert [f.onset_step for f in facts if isinstance(f, IncidentOpened)] == [60, 110]
    assert [f.action for f in facts if isinstance(f, IncidentDecided)] == ["continue", "continue"]
    assert [f.abandoned for f in facts if isinstance(f, IncidentClosed)] == [(), ()]
    assert open_incident(facts) is None
    assert read_stop_request(run.layout) is None
    assert read_receipt(run.layout.incident(2)).facts["verdict_step"] == next(
        f.verdict_step for f in facts if isinstance(f, IncidentOpened) and f.incident == 2
    )


def test_observed_again_nothing_is_recorded_twice(tmp_path: Path, ended: threading.Event) -> None:
    run = opened_run(tmp_path, "observe")
    watch(run, TRAIN, ended)
    before = run.facts()
    watch(run, TRAIN, ended)
    assert run.facts() == before
