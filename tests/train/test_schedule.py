"""The learning rate against the values that K2 published for its checkpoints (K2 §3.2), at both ends of both stages."""

import pytest

from k2.recipe.schema import Fault, Schedule
from k2.train.schedule import fault_factor, learning_rate

STAGE1 = Schedule(kind="cosine", peak=1.5e-4, final=1.5e-5, warmup_steps=2000)
STAGE1_STEPS = 338_760
STAGE2 = Schedule(kind="linear", peak=1e-4, final=0.0, warmup_steps=2000)
STAGE2_STEPS = 16_580

PUBLISHED = {941: "7.06e-05", 174_085: "8.02e-05", 175_026: "7.96e-05", 182_554: "7.49e-05", 188_200: "7.13e-05", 338_760: "1.50e-05"}


@pytest.mark.parametrize(("step", "printed"), PUBLISHED.items())
def test_k2_published_rates(step, printed):
    assert f"{learning_rate(STAGE1, step, STAGE1_STEPS):.2e}" == printed


@pytest.mark.parametrize(("step", "printed"), [(96_923, "1.252e-04"), (150_560, "9.49e-05")])
def test_k2_published_rates_of_more_digits(step, printed):
    digits = len(printed.split("e")[0]) - 2
    assert f"{learning_rate(STAGE1, step, STAGE1_STEPS):.{digits}e}" == printed


def test_both_ends_of_stage_1():
    assert learning_rate(STAGE1, 1, STAGE1_STEPS) == 1.5e-4 / 2000
    assert learning_rate(STAGE1, 2000, STAGE1_STEPS) == 1.5e-4
    assert learning_rate(STAGE1, STAGE1_STEPS, STAGE1_STEPS) == pytest.approx(1.5e-5, rel=1e-12)


def test_both_ends_of_stage_2():
    assert learning_rate(STAGE2, 1, STAGE2_STEPS) == 1e-4 / 2000
    assert learning_rate(STAGE2, 2000, STAGE2_STEPS) == 1e-4
    assert learning_rate(STAGE2, STAGE2_STEPS, STAGE2_STEPS) == 0.0
    assert learning_rate(STAGE2, 2000 + 7290, STAGE2_STEPS) == pytest.approx(0.5e-4)


def test_without_warmup_the_first_step_is_already_decaying():
    schedule = Schedule(kind="linear", peak=1.0, final=0.0, warmup_steps=0)
    assert [learning_rate(schedule, step, 4) for step in (1, 2, 3, 4)] == [0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize("step", [0, 5, -1])
def test_a_step_outside_of_the_stage_is_refused(step):
    with pytest.raises(ValueError, match="1 to 4"):
        learning_rate(STAGE1.model_copy(update={"warmup_steps": 1}), step, 4)


def test_faults_multiply_the_rate_at_their_steps_only():
    faults = (
        Fault(stage="stage1", first_step=5, steps=2, learning_rate_factor=30.0),
        Fault(stage="stage1", first_step=6, steps=1, learning_rate_factor=2.0),
    )
    assert [fault_factor(faults, "stage1", step) for step in (4, 5, 6, 7)] == [1.0, 30.0, 60.0, 1.0]
    assert fault_factor(faults, "stage2", 5) == 1.0
