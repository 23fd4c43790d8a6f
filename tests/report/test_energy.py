"""Energy by the report's formula, from the hours in which a trainer ran."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from k2.recipe.load import load_recipe
from k2.report.energy import energy_use, trainer_hours
from k2.run.ledger import AttemptEnded, AttemptStarted, Fact
from k2.run.records import StepRecord

HOUR = 3600.0


def at(hours: float) -> str:
    return datetime.fromtimestamp(hours * HOUR, UTC).isoformat(timespec="milliseconds")


def started(attempt: int, hours: float) -> AttemptStarted:
    return AttemptStarted(at=at(hours), attempt=attempt, stage="stage1", checkpoint=None, first_step=1)


def ended(attempt: int, hours: float) -> AttemptEnded:
    return AttemptEnded(at=at(hours), attempt=attempt, outcome="completed", exit_code=0)


def step(attempt: int, number: int, hours: float) -> StepRecord:
    return StepRecord(attempt, "stage1", number, 2.0, 1.0, 1e-4, 100 * number, 1.0, at=hours * HOUR)


def test_a_hundred_days_of_k2_are_the_reports_figures() -> None:
    facts: list[Fact] = [started(1, 0), ended(1, 2400)]
    used = energy_use(load_recipe("k2_65b"), facts, {}, accepted=0, now=None)
    assert (round(used.mwh, 1), round(used.tco2e, 1)) == (430.8, 165.9)


def test_pauses_between_attempts_are_not_counted() -> None:
    facts: list[Fact] = [started(1, 10), ended(1, 12), started(2, 40), ended(2, 43)]
    assert trainer_hours(facts, {}, now=None) == pytest.approx(5)


def test_a_killed_attempt_lasts_until_its_last_record() -> None:
    facts: list[Fact] = [started(1, 10), started(2, 40), ended(2, 43)]
    assert trainer_hours(facts, {"stage1": {1: [step(1, 1, 10.5), step(1, 2, 11)]}}, now=99 * HOUR) == pytest.approx(4)


def test_a_living_attempt_lasts_until_now_and_a_dead_one_does_not() -> None:
    facts: list[Fact] = [started(1, 10)]
    records = {"stage1": {1: [step(1, 1, 10.5)]}}
    assert trainer_hours(facts, records, now=12 * HOUR) == pytest.approx(2)
    assert trainer_hours(facts, records, now=None) == pytest.approx(0.5)


def test_the_share_of_abandoned_steps() -> None:
    records = {"stage1": {1: [step(1, n, 10) for n in range(1, 9)], 2: [step(2, n, 10) for n in range(5, 7)]}}
    used = energy_use(load_recipe("k2_65b"), [started(1, 9), ended(1, 10)], records, accepted=6, now=None)
    assert used.abandoned_share == pytest.approx(0.4)


def test_where_every_step_was_metered_the_measured_power_counts() -> None:
    recipe = load_recipe("k2_65b")
    metered = [replace(step(1, number, 10), joules=700.0, seconds=2.0) for number in range(1, 5)]
    used = energy_use(recipe, [started(1, 9), ended(1, 19)], {"stage1": {1: metered}}, accepted=4, now=None)
    assert used.measured_kw == pytest.approx(0.35)
    assert used.mwh == pytest.approx(10 * 0.35 * recipe.energy.pue / 1000)
    partly = [*metered, step(1, 5, 10)]
    used = energy_use(recipe, [started(1, 9), ended(1, 19)], {"stage1": {1: partly}}, accepted=5, now=None)
    assert used.measured_kw is None
    assert used.mwh == pytest.approx(recipe.energy.mwh(10))
