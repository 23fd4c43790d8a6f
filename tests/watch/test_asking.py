"""What a human is asked: what would be accepted, bound to one incident, and a default when the time is over."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from spike_families import TINY, calm, records

from k2.recipe.schema import Recipe
from k2.run.holdings import read_holdings
from k2.run.layout import RunLayout
from k2.run.ledger import AttemptStarted, Fact, IncidentDecided, IncidentOpened
from k2.watch.asking import answer_overdue, question, question_name

FIRST = AttemptStarted(attempt=1, stage="stage1", checkpoint=None, first_step=1)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
INCIDENT = IncidentOpened(
    at=NOON.isoformat(), incident=1, stage="stage1", attempt=1, kind="malignant.long", onset_step=291, verdict_step=302
)
FACTS: list[Fact] = [FIRST, INCIDENT]
ASKING = ('mode="confirm"', "answer_within_hours=2", 'unanswered="continue"')


@pytest.fixture(autouse=True)
def _run(layout: RunLayout, commit: Callable[..., None]) -> None:
    path = layout.metrics("stage1", 1)
    path.parent.mkdir(parents=True)
    path.write_text("".join(record.line() for record in records(calm(TINY, np.random.default_rng(0))[:305])))
    for step in (260, 270, 290):
        commit(f"rescue_stage1_{step:06d}", "rescue", step)
    commit("ckpt_007", "chunk", 280)
    commit("rescue_stage1_000305", "stop", 305)


def test_it_offers_what_would_be_accepted(with_spikes: Callable[..., Recipe], layout: RunLayout) -> None:
    recipe = with_spikes(*ASKING)
    asked = question(recipe, layout.name, FACTS, read_holdings(recipe, layout, FACTS), INCIDENT)
    assert asked.targets == ("rescue_stage1_000290", "ckpt_007", "rescue_stage1_000270", "rescue_stage1_000260")  # none past the onset
    assert asked.proposed == "rescue_stage1_000270"  # the margin before the onset lies between
    assert asked.operations == ("skip", "defer")
    assert (asked.default, asked.deadline) == ("continue", NOON + timedelta(hours=2))


def test_why_it_is_asked_is_told_with_it(with_spikes: Callable[..., Recipe], layout: RunLayout) -> None:
    recipe = with_spikes(*ASKING)
    asked = question(recipe, layout.name, FACTS, read_holdings(recipe, layout, FACTS), INCIDENT)
    assert asked.why == "the recipe asks about every incident"
    noted = INCIDENT.model_copy(update={"why_asked": "the run has gone back 10 times, as often as it may"})
    assert question(recipe, layout.name, FACTS, read_holdings(recipe, layout, FACTS), noted).why == noted.why_asked


def test_a_question_without_a_time_waits_for_ever(recipe: Recipe, layout: RunLayout) -> None:
    holdings = read_holdings(recipe, layout, FACTS)
    assert question(recipe, layout.name, FACTS, holdings, INCIDENT).deadline is None
    assert answer_overdue(recipe, FACTS, holdings, INCIDENT, NOON + timedelta(days=1000)) == ()


def test_its_name_is_bound_to_run_onset_and_attempt() -> None:
    others = [INCIDENT.model_copy(update=change) for change in ({"onset_step": 292}, {"attempt": 2}, {"incident": 2})]
    names = {question_name("a", INCIDENT), question_name("b", INCIDENT), *(question_name("a", other) for other in others)}
    assert len(names) == 5


def test_the_default_stands_from_the_deadline_on(with_spikes: Callable[..., Recipe], layout: RunLayout) -> None:
    recipe = with_spikes(*ASKING)
    holdings = read_holdings(recipe, layout, FACTS)
    assert answer_overdue(recipe, FACTS, holdings, INCIDENT, NOON + timedelta(hours=1, minutes=59)) == ()
    [decided] = answer_overdue(recipe, FACTS, holdings, INCIDENT, NOON + timedelta(hours=2))
    assert isinstance(decided, IncidentDecided)
    assert (decided.incident, decided.action, decided.who) == (1, "continue", "time-out")
