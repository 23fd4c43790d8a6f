"""Whoever answers an incident first wins, and the other is told who it was; the clock answers where nobody did."""

from pathlib import Path

import pytest
from leases import past_lease

from flows.deciding import Asked, answer_if_overdue, decide_incident, decide_overdue, note_asked, read_asked, wake
from flows.run import Run
from k2.recipe.load import load_recipe
from k2.recipe.place import Place
from k2.run.layout import RunLayout
from k2.run.lease import RunHeld, hold
from k2.run.ledger import AttemptStarted, IncidentDecided, IncidentOpened
from k2.run.opening import create_or_open
from k2.watch.policy import DecisionRefused

MINI = str(Path(__file__).parents[1] / "mini.toml")
LONG_AGO = "2020-01-01T00:00:00.000+00:00"


def opened_run(tmp_path: Path, *overrides: str, at: str = LONG_AGO) -> Run:
    """A run that waits for an answer to incident 1."""
    recipe, layout = load_recipe(MINI, ('spikes.mode="confirm"', *overrides)), RunLayout(tmp_path / "mini")
    create_or_open(layout, recipe, Place())
    run = Run(recipe, Place(), layout, past_lease(layout), None, None, lambda _line: None)  # type: ignore[arg-type]
    run.record(
        AttemptStarted(attempt=1, stage="stage1", checkpoint=None, first_step=1),
        IncidentOpened(at=at, incident=1, stage="stage1", attempt=1, kind="malignant.long", onset_step=6, verdict_step=9),
    )
    return run


def answers(run: Run) -> list[tuple[str, str]]:
    return [(fact.action, fact.who) for fact in run.facts() if isinstance(fact, IncidentDecided)]


def test_the_first_answer_counts_and_the_second_learns_whose_it_was(tmp_path: Path) -> None:
    run = opened_run(tmp_path)
    decide_incident(run.layout, 1, "continue", None, None, "ada")
    with hold(run.layout), pytest.raises(DecisionRefused, match="by ada"):  # though the run is driven again by now
        decide_incident(run.layout, 1, "abort", None, None, "user")
    assert answers(run) == [("continue", "ada")]


def test_an_open_incident_of_a_run_that_is_driven_cannot_be_answered(tmp_path: Path) -> None:
    run = opened_run(tmp_path)
    with hold(run.layout), pytest.raises(RunHeld):
        decide_incident(run.layout, 1, "continue", None, None, "ada")


def test_the_clock_answers_once_and_not_before_its_time(tmp_path: Path) -> None:
    run = opened_run(tmp_path, "spikes.answer_within_hours=1", 'spikes.unanswered="continue"')
    first = decide_overdue(run.layout, 1)
    assert first is not None
    assert (first.action, first.who) == ("continue", "time-out")
    assert decide_overdue(run.layout, 1) == first
    assert not answer_if_overdue(run)
    assert answers(run) == [("continue", "time-out")]


def test_a_resume_after_the_deadline_takes_the_default(tmp_path: Path) -> None:
    run = opened_run(tmp_path, "spikes.answer_within_hours=1", 'spikes.unanswered="abort"')
    assert answer_if_overdue(run)
    assert answers(run) == [("abort", "time-out")]


def test_where_the_recipe_names_no_time_it_waits_for_ever(tmp_path: Path) -> None:
    run = opened_run(tmp_path)
    assert decide_overdue(run.layout, 1) is None
    assert not answer_if_overdue(run)


def test_where_the_server_is_gone_nobody_is_woken_and_nothing_is_lost(tmp_path: Path) -> None:
    run = opened_run(tmp_path)
    assert not wake(run.layout)
    asked = Asked(1, "00000000-0000-0000-0000-000000000000", "http://127.0.0.1:9/api")
    note_asked(run.layout, asked)
    assert not wake(run.layout)
    assert read_asked(run.layout) == asked
