"""Where a run stands, for every state it can be in, from its directory alone."""

import pytest
from filled_run import lay, lay_all_trained, lay_chunk, lay_prepared, lay_rescue, started, write_records

from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout
from k2.run.lease import hold
from k2.run.ledger import Fact, IncidentClosed, IncidentDecided, IncidentOpened, RunCreated, append_facts
from k2.run.records import all_branches
from k2.run.status import read_status, status_of

CREATED = RunCreated(run="run-1", recipe="r", recipe_name="mini")
OPENED = IncidentOpened(incident=1, stage="stage1", attempt=1, kind="malignant.long", onset_step=5, verdict_step=9, evidence={"z": 40.0})
DECIDED = IncidentDecided(incident=1, action="rollback", checkpoint="rescue_stage1_000004", data="skip", who="ada")
CLOSED = IncidentClosed(incident=1, abandoned=("ckpt_001",))


@pytest.fixture
def created(layout: RunLayout) -> RunLayout:
    append_facts(layout.ledger, CREATED)
    return layout


def state(recipe: Recipe, layout: RunLayout) -> str:
    return read_status(recipe, layout).state


def test_a_run_that_somebody_drives_prepares_trains_evaluates_and_is_done(recipe: Recipe, created: RunLayout) -> None:
    suite = recipe.evaluation.suite
    with hold(created):
        assert state(recipe, created) == "preparing"
        lay_prepared(created, suite)
        assert state(recipe, created) == "training"
        for number in range(1, 5):
            assert state(recipe, created) == "training"
            lay_chunk(created, number)
        assert state(recipe, created) == "evaluating"
    assert state(recipe, created) == "stopped"


def test_what_is_left_after_the_last_duty_is_the_release(recipe: Recipe, created: RunLayout) -> None:
    lay_all_trained(created, recipe.evaluation.suite)
    assert state(recipe, created) == "stopped"
    with hold(created):
        assert state(recipe, created) == "evaluating"
        lay(created.release, "release")
        assert state(recipe, created) == "done"
    assert state(recipe, created) == "done"


def test_a_run_that_nobody_drives_is_stopped(recipe: Recipe, created: RunLayout) -> None:
    assert state(recipe, created) == "stopped"
    lay_prepared(created, recipe.evaluation.suite)
    append_facts(created.ledger, started(1))
    assert state(recipe, created) == "stopped"


def test_an_incident_waits_until_it_is_decided(recipe: Recipe, created: RunLayout) -> None:
    lay_prepared(created, recipe.evaluation.suite)
    append_facts(created.ledger, started(1), OPENED.model_copy(update={"why_asked": "the recipe asks about every incident"}))
    assert state(recipe, created) == "waiting"
    with hold(created):
        assert state(recipe, created) == "waiting"
        append_facts(created.ledger, DECIDED)
        assert state(recipe, created) == "training"
    assert state(recipe, created) == "stopped"


def test_an_incident_that_nobody_is_asked_about_is_being_probed(recipe: Recipe, created: RunLayout) -> None:
    lay_prepared(created, recipe.evaluation.suite)
    append_facts(created.ledger, started(1), OPENED)
    with hold(created):
        assert state(recipe, created) == "training"


def test_an_aborted_run_is_done(recipe: Recipe, created: RunLayout) -> None:
    abort = DECIDED.model_copy(update={"action": "abort", "checkpoint": None, "data": "none"})
    append_facts(created.ledger, started(1), OPENED, abort, CLOSED)
    assert state(recipe, created) == "done"


def test_before_the_first_step_there_is_no_position(recipe: Recipe, created: RunLayout) -> None:
    found = read_status(recipe, created)
    assert (found.run, found.stage, found.chunk, found.step, found.tokens, found.attempts) == ("run-1", None, None, 0, 0, 0)
    assert (found.incidents, found.checkpoints, found.goodput) == ([], [], {})


@pytest.mark.parametrize(("step", "chunk"), [(1, 0), (8, 0), (9, 1), (24, 2)])
def test_the_chunk_is_the_position_that_the_last_step_trained(recipe: Recipe, created: RunLayout, step: int, chunk: int) -> None:
    append_facts(created.ledger, started(1))
    write_records(created, 1, *range(1, step + 1))
    found = read_status(recipe, created)
    assert (found.stage, found.step, found.chunk) == ("stage1", step, chunk)


def test_the_stage_is_the_last_that_has_begun(recipe: Recipe, created: RunLayout) -> None:
    append_facts(created.ledger, started(1), started(2, stage="stage2", checkpoint="ckpt_003"))
    write_records(created, 1, *range(1, 25))
    write_records(created, 2, 1, stage="stage2")
    found = read_status(recipe, created)
    assert (found.stage, found.step, found.chunk, found.attempts) == ("stage2", 1, 0, 2)


def test_checkpoints_show_what_they_are_owed_and_rescues_are_left_out(recipe: Recipe, created: RunLayout) -> None:
    lay_chunk(created, 1, settled=("verified", "exported"))
    lay_rescue(created, "stage1", 12)
    found = read_status(recipe, created)
    assert [(c.name, c.stage, c.step) for c in found.checkpoints] == [("ckpt_001", "stage1", 8)]
    assert found.checkpoints[0].obligations == {"verified": True, "exported": True, "evaluated": False, "published": False, "shown": False}
    assert found.tokens == 128 * 12


def test_an_incident_is_shown_with_its_decision(recipe: Recipe, created: RunLayout) -> None:
    append_facts(created.ledger, started(1), OPENED)
    shown = read_status(recipe, created).incidents[0]
    assert (shown["incident"], shown["kind"], shown["onset_step"], shown["decision"]) == (1, "malignant.long", 5, None)
    append_facts(created.ledger, DECIDED)
    decision = read_status(recipe, created).incidents[0]["decision"]
    assert decision == {"action": "rollback", "checkpoint": "rescue_stage1_000004", "data": "skip", "who": "ada"}


def test_read_or_given_the_status_is_the_same(recipe: Recipe, created: RunLayout) -> None:
    lay_all_trained(created, recipe.evaluation.suite)
    facts: list[Fact] = append_facts(created.ledger, started(1))
    write_records(created, 1, *range(1, 25))
    assert status_of(recipe, created, facts, all_branches(created, facts, recipe)) == read_status(recipe, created)
