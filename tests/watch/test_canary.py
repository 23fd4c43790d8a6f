"""What the canary compares, and with whom: pure, on records made by hand."""

import math

import pytest

from k2.run.ledger import AttemptStarted, ChunkDeferred, IncidentOpened, ResumeRefused, StepsSkipped, UpdatesTempered
from k2.run.records import StepRecord
from k2.watch.canary import CANARY_STEPS, mismatch, recorded_steps


def record(step, attempt=1, loss=None, **more):
    fields = {"loss": 5.0 - 0.01 * step if loss is None else loss, "grad_norm": 1.0, "lr": 1e-3, "tokens": 128 * step, "seconds": 0.1}
    return StepRecord(attempt=attempt, stage="stage1", step=step, **(fields | more))


def started(attempt, first_step=1, stage="stage1"):
    return AttemptStarted(attempt=attempt, stage=stage, checkpoint=None, first_step=first_step)


BRANCHES = {1: [record(s) for s in range(1, 60)], 2: [record(s, 2) for s in range(11, 30)]}


def attempts_by_step(facts, first_step=21, by_attempt=None):
    return {step: r.attempt for step, r in recorded_steps(facts, BRANCHES, "stage1", first_step, by_attempt).items()}


def test_the_first_steps_are_compared_with_who_saved_the_checkpoint():
    assert attempts_by_step([started(1), started(2, 11)], by_attempt=1) == dict.fromkeys(range(21, 21 + CANARY_STEPS), 1)


def test_else_with_the_newest():
    found = attempts_by_step([started(1), started(2, 11)])
    assert [found[step] for step in (21, 25)] == [2, 2]
    assert list(attempts_by_step([started(1), started(2, 11)], first_step=28).values()) == [2, 2, 1, 1, 1]


def test_never_with_a_refused_attempt():
    refused = ResumeRefused(attempt=2, checkpoint="ckpt_001", step=12, why="test")
    assert set(attempts_by_step([started(1), started(2, 11), refused]).values()) == {1}


def test_never_with_a_spike():
    spike = IncidentOpened(incident=1, stage="stage1", attempt=2, kind="malignant.long", onset_step=23, verdict_step=29)
    assert list(attempts_by_step([started(1), started(2, 11), spike]).values()) == [2, 2, 1, 1, 1]


@pytest.mark.parametrize("operation", [
    StepsSkipped(stage="stage1", first_step=30, last_step=31, who="test", why="test"),
    ChunkDeferred(stage="stage1", position=0, who="test", why="test"),
    UpdatesTempered(stage="stage1", first_step=1, last_step=9, clip_factor=0.5, who="test", why="test"),
])  # fmt: skip
def test_after_an_operation_nothing_before_it_is_compared(operation):
    assert attempts_by_step([started(1), operation]) == {}
    assert set(attempts_by_step([started(1), operation, started(2, 11)]).values()) == {2}


@pytest.mark.parametrize(("loss", "exact", "fits"), [
    (4.79, True, True),
    (math.nextafter(4.79, 5), True, False),
    (math.nextafter(4.79, 5), False, True),
    (4.79 * 1.0009, False, True),
    (4.79 * 1.0011, False, False),
    (math.nan, False, False),
])  # fmt: skip
def test_how_near_is_near_enough(loss, exact, fits):
    found = mismatch({21: record(21, loss=4.79)}, record(21, 2, loss), exact)
    assert (found is None) == fits
    if found is not None:
        assert "step 21 has loss" in found
        assert "attempt 1 recorded 4.79" in found


def test_the_gradient_norm_must_be_the_same_to_the_bit_too():
    assert mismatch({21: record(21)}, record(21, 2, grad_norm=1.0000001), exact=True) is not None


def test_a_loss_that_was_no_number_is_repeated_as_none():
    assert mismatch({21: record(21, loss=math.nan)}, record(21, 2, math.nan), exact=True) is None


def test_what_is_not_known_or_was_at_another_rate_says_nothing():
    assert mismatch({}, record(21, 2, 9.0), exact=True) is None
    assert mismatch({21: record(21, lr=2e-3)}, record(21, 2, 9.0), exact=True) is None
