"""Every second has one cause: hand-made ledgers with known answers."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2.recipe.load import load_recipe
from k2.recipe.schema import Recipe
from k2.run.goodput import CAUSES, booked_seconds, goodput
from k2.run.layout import RunLayout
from k2.run.ledger import (
    AttemptEnded,
    AttemptStarted,
    DutyFailed,
    Fact,
    IncidentClosed,
    IncidentDecided,
    IncidentOpened,
    ReplayProbed,
    RunCreated,
)
from k2.run.records import StepRecord, all_branches


def at(seconds: float) -> str:
    return datetime.fromtimestamp(1_000_000 + seconds, UTC).isoformat(timespec="milliseconds")


MINI = str(Path(__file__).parents[1] / "mini.toml")
CREATED = RunCreated(at=at(0), run="r", recipe="d", recipe_name="mini")


def write(layout: RunLayout, attempt: int, *ends: tuple[int, float], stage: str = "stage1", seconds: float = 2.0) -> None:
    """Records of steps that ended at these times."""
    path = layout.metrics(stage, attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(StepRecord(attempt, stage, step, 4.0, 0.4, 1e-3, 0, seconds, at=1_000_000 + end).line() for step, end in ends))


def booked(facts: list[Fact], layout: RunLayout, recipe: Recipe, until: float | None = None) -> dict[str, float]:
    """The causes that got any time."""
    seconds = booked_seconds(facts, recipe, all_branches(layout, facts, recipe), None if until is None else 1_000_000 + until)
    return {cause: pytest.approx(spent, abs=1e-3) for cause, spent in seconds.items() if spent > 0}


def test_an_unbroken_stage(recipe: Recipe, layout: RunLayout) -> None:
    facts: list[Fact] = [
        CREATED,
        AttemptStarted(at=at(10), attempt=1, stage="stage1", checkpoint=None, first_step=1),
        AttemptEnded(at=at(31), attempt=1, outcome="completed", exit_code=0),
    ]
    write(layout, 1, (1, 17), (2, 19), (3, 21), (4, 23), (5, 27))  # 5 s to the first step, 2 s to save after the fourth
    assert booked(facts, layout, recipe, until=40) == {
        "data_stall": 10,
        "startup": 5,
        "productive": 10,
        "ckpt_stall": 2 + 4,
        "eval_stall": 9,
    }


def test_ranks_that_leave_when_the_last_checkpoint_is_there_save_no_more(recipe: Recipe, layout: RunLayout) -> None:
    ended = AttemptEnded(at=at(12), attempt=1, outcome="completed", exit_code=0, saved_at=1_000_000 + 9)
    facts: list[Fact] = [CREATED, AttemptStarted(at=at(0), attempt=1, stage="stage1", checkpoint=None, first_step=1), ended]
    write(layout, 1, (1, 2), (2, 4), (3, 6), (4, 8))
    assert booked(facts, layout, recipe) == {"productive": 8, "ckpt_stall": 1, "other": 3}
    facts[-1] = ended.model_copy(update={"saved_at": 1_000_000 + 99})  # the clock of the disk's host is another
    assert booked(facts, layout, recipe) == {"productive": 8, "ckpt_stall": 4}


def test_a_probe_is_the_spikes_and_no_wait_for_a_human(recipe: Recipe, layout: RunLayout) -> None:
    facts: list[Fact] = [
        CREATED,
        AttemptStarted(at=at(0), attempt=1, stage="stage1", checkpoint=None, first_step=1),
        AttemptEnded(at=at(4), attempt=1, outcome="stopped", exit_code=0),
        IncidentOpened(at=at(4), incident=1, stage="stage1", attempt=1, kind="malignant.long", onset_step=1, verdict_step=2),
        ReplayProbed(at=at(9), incident=1, checkpoint=None, reproduced=True),
    ]
    write(layout, 1, (1, 2), (2, 4))
    assert booked(facts, layout, recipe) == {"productive": 4, "rework_spike": 5}


def test_what_a_crash_lost_is_booked_to_it(recipe: Recipe, layout: RunLayout) -> None:
    facts: list[Fact] = [
        CREATED,
        AttemptStarted(at=at(0), attempt=1, stage="stage1", checkpoint=None, first_step=1),
        AttemptEnded(at=at(14), attempt=1, outcome="crashed", exit_code=1),
        AttemptStarted(at=at(20), attempt=2, stage="stage1", checkpoint="rescue_stage1_000004", first_step=5),
    ]
    write(layout, 1, (1, 2), (2, 4), (3, 6), (4, 8), (5, 10), (6, 12))
    write(layout, 2, (5, 25), (6, 27))
    assert booked(facts, layout, recipe, until=28) == {
        "productive": 8 + 4,
        "rework_fault": 4,
        "other": 2 + 1,
        "startup": 6 + 3,
    }


def test_what_a_rollback_lost_is_booked_to_the_spike_and_waiting_to_people(recipe: Recipe, layout: RunLayout) -> None:
    facts: list[Fact] = [
        CREATED,
        AttemptStarted(at=at(0), attempt=1, stage="stage1", checkpoint=None, first_step=1),
        AttemptEnded(at=at(13), attempt=1, outcome="stopped", exit_code=0),
        IncidentOpened(at=at(13), incident=1, stage="stage1", attempt=1, kind="malignant.long", onset_step=3, verdict_step=6),
        IncidentDecided(at=at(113), incident=1, action="rollback", checkpoint=None, data="skip", who="ada"),
        IncidentClosed(at=at(114), incident=1),
        AttemptStarted(at=at(115), attempt=2, stage="stage1", checkpoint=None, first_step=3),
    ]
    write(layout, 1, (1, 2), (2, 4), (3, 6), (4, 8), (5, 10), (6, 12))
    write(layout, 2, (7, 120))
    assert booked(facts, layout, recipe) == {
        "productive": 4 + 2,
        "rework_spike": 8,
        "ckpt_stall": 1,
        "human_wait": 100,
        "startup": 2 + 3,
    }


def test_steps_lost_twice_belong_to_the_first_cause(recipe: Recipe, layout: RunLayout) -> None:
    """A crash threw steps 5 and 6 away; the rollback to step 3 later only reaches what still counted."""
    facts: list[Fact] = [
        CREATED,
        AttemptStarted(at=at(0), attempt=1, stage="stage1", checkpoint=None, first_step=1),
        AttemptStarted(at=at(12), attempt=2, stage="stage1", checkpoint="x", first_step=5),
        IncidentDecided(at=at(16), incident=1, action="rollback"),
        AttemptStarted(at=at(16), attempt=3, stage="stage1", checkpoint="y", first_step=3),
    ]
    write(layout, 1, (1, 2), (2, 4), (3, 6), (4, 8), (5, 10), (6, 12))
    write(layout, 2, (5, 14), (6, 16))
    assert booked(facts, layout, recipe) == {"productive": 4, "rework_spike": 4 + 4, "rework_fault": 4}


def test_a_driver_that_was_killed_leaves_the_run_waiting(recipe: Recipe, layout: RunLayout) -> None:
    facts: list[Fact] = [
        CREATED,
        AttemptStarted(at=at(0), attempt=1, stage="stage1", checkpoint=None, first_step=1),
        AttemptStarted(at=at(3600), attempt=2, stage="stage1", checkpoint=None, first_step=1),
    ]
    write(layout, 1, (1, 2), (2, 4))
    assert booked(facts, layout, recipe, until=3610) == {"rework_fault": 4, "sched_wait": 3596, "startup": 10}


def test_a_clock_that_was_set_back_books_nothing_twice(recipe: Recipe, layout: RunLayout) -> None:
    facts: list[Fact] = [
        CREATED,
        AttemptStarted(at=at(10), attempt=1, stage="stage1", checkpoint=None, first_step=1),
        DutyFailed(at=at(-3000), checkpoint="ckpt_001", duty="published", why=""),
        AttemptEnded(at=at(20), attempt=1, outcome="completed", exit_code=0),
    ]
    write(layout, 1, (1, 14), (2, -3580), (3, -3578), (4, 18))
    seconds = booked_seconds(facts, recipe, all_branches(layout, facts, recipe), 1_000_000 + 25)
    assert min(seconds.values()) >= 0
    assert sum(seconds.values()) == pytest.approx(25)


def test_the_shares_sum_to_one(recipe: Recipe, layout: RunLayout) -> None:
    facts: list[Fact] = [CREATED, AttemptStarted(at=at(7), attempt=1, stage="stage1", checkpoint=None, first_step=1)]
    write(layout, 1, *((step, 10 + 2.5 * step) for step in range(1, 20)))
    shares = goodput(facts, recipe, all_branches(layout, facts, recipe), 1_000_000 + 100)
    assert sum(shares.values()) == pytest.approx(1, abs=1e-9)
    assert shares["productive"] == pytest.approx(0.38)


def test_before_anything_happened_there_is_nothing_to_share(recipe: Recipe) -> None:
    assert goodput([], recipe, {}, 5.0) == {}
    assert goodput([CREATED], recipe, {}) == {}


def test_loading_a_checkpoint_is_told_from_starting(recipe: Recipe, layout: RunLayout) -> None:
    facts: list[Fact] = [CREATED, AttemptStarted(at=at(0), attempt=1, stage="stage1", checkpoint="x", first_step=5)]
    path = layout.metrics("stage1", 1)
    path.parent.mkdir(parents=True)
    first = StepRecord(1, "stage1", 5, 4.0, 0.4, 1e-3, 0, 2.0, at=1_000_012.0, loading_seconds=4.0)
    path.write_text(first.line() + replace(first, step=6, at=1_000_014.0, loading_seconds=0.0).line())
    assert booked(facts, layout, recipe) == {"startup": 6, "ckpt_load": 4, "productive": 4}


def test_a_trainer_killed_for_its_silence_hung(recipe: Recipe, layout: RunLayout) -> None:
    """By the rule that kills it: five times the 99th percentile of the gaps, twice the longest, and at least 60 s."""

    def shares(end: float, outcome: str = "crashed") -> dict[str, float]:
        facts: list[Fact] = [
            CREATED,
            AttemptStarted(at=at(0), attempt=1, stage="stage1", checkpoint=None, first_step=1),
            AttemptEnded(at=at(end), attempt=1, outcome=outcome, exit_code=-9),  # type: ignore[arg-type]
        ]
        write(layout, 1, (1, 2), (2, 4), (3, 6))
        return booked(facts, layout, recipe)

    assert shares(106) == {"productive": 6, "hang": 100}
    assert shares(60) == {"productive": 6, "other": 54}
    assert "hang" not in shares(106, "stopped")


MOMENTS = st.floats(-4000, 8000, allow_nan=False)


@st.composite
def lives(draw: st.DrawFn) -> tuple[list[Fact], dict[int, list[StepRecord]], float]:
    """Any ledger and any records, with clocks that were set forth and back: none of it need make sense."""
    facts: list[Fact] = [CREATED]
    records: dict[int, list[StepRecord]] = {}
    for attempt in range(1, draw(st.integers(1, 5))):
        first = draw(st.integers(1, 30))
        facts.append(AttemptStarted(at=at(draw(MOMENTS)), attempt=attempt, stage="stage1", checkpoint=None, first_step=first))
        ends = draw(st.lists(MOMENTS, max_size=8))
        seconds, loading = draw(st.floats(0, 50)), draw(st.floats(0, 50))
        records[attempt] = [
            StepRecord(attempt, "stage1", first + i, 4.0, 0.4, 1e-3, 0, seconds, at=1_000_000 + end, loading_seconds=loading * (i == 0))
            for i, end in enumerate(ends)
        ]
        outcome = draw(st.sampled_from(["completed", "stopped", "crashed", "lost", None]))
        if outcome is not None:
            facts.append(AttemptEnded(at=at(draw(MOMENTS)), attempt=attempt, outcome=outcome, exit_code=0))
        if draw(st.booleans()):
            opened = IncidentOpened(
                at=at(draw(MOMENTS)), incident=attempt, stage="stage1", attempt=attempt, kind="nonfinite", onset_step=5, verdict_step=9
            )
            facts += [opened, IncidentDecided(at=at(draw(MOMENTS)), incident=attempt, action="rollback")]
    return facts, records, draw(MOMENTS)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(lives())
def test_the_causes_partition_the_wall_whatever_the_clock_did(life: tuple[list[Fact], dict[int, list[StepRecord]], float]) -> None:
    """No cause is negative, and the sum is the time from the creation to the latest moment that anything speaks of."""
    facts, records, now = life
    mini = load_recipe(MINI)
    read = {"stage1": records, "stage2": {}}
    seconds = booked_seconds(facts, mini, read, 1_000_000 + now)
    spoken = [datetime.fromisoformat(f.at).timestamp() for f in facts] + [r.at for branch in records.values() for r in branch]
    assert set(seconds) == set(CAUSES)
    assert min(seconds.values()) >= 0
    assert sum(seconds.values()) == pytest.approx(max([*spoken, 1_000_000 + now]) - 1_000_000, abs=1e-3)
    shares = goodput(facts, mini, read, 1_000_000 + now)
    assert not shares or sum(shares.values()) == pytest.approx(1.0, abs=1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(lives(), st.integers(0, 20), st.integers(0, 8))
def test_what_was_lost_at_the_end_changes_nothing_before_it(
    life: tuple[list[Fact], dict[int, list[StepRecord]], float], facts_left: int, records_left: int
) -> None:
    """A ledger or records cut off anywhere (a torn line, a lost disk) are booked all the same, and to no more than their wall."""
    facts, records, _ = life
    cut = facts[: 1 + facts_left]
    left = {attempt: branch[:records_left] for attempt, branch in records.items()}
    whole = booked_seconds(facts, load_recipe(MINI), {"stage1": records, "stage2": {}})
    kept = booked_seconds(cut, load_recipe(MINI), {"stage1": left, "stage2": {}})
    assert min(kept.values()) >= 0
    assert sum(kept.values()) <= sum(whole.values()) + 1e-3
