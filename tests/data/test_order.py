"""The order as a fold over the ledger."""

import pytest

from k2.data.order import Seat, chunk_of_step, effective_order, is_skipped, skipped_ranges, step_of_row
from k2.recipe.load import load_recipe
from k2.run.ledger import AttemptStarted, ChunkDeferred, StepsSkipped

# K2 §0.3: the order in which K2's chunks stood when training began
K2_START = (*range(16), *range(32, 38), *range(44, 52), *range(16, 32), *range(38, 44), *range(52, 360))


def deferred(position: int, stage: str = "stage1") -> ChunkDeferred:
    return ChunkDeferred(stage=stage, position=position, who="policy", why="spike")


def skipped(first: int, last: int, stage: str = "stage1") -> StepsSkipped:
    return StepsSkipped(stage=stage, first_step=first, last_step=last, who="policy", why="spike")


def test_two_deferrals_make_k2s_published_order():
    stage = load_recipe("k2_65b").stage("stage1")
    order = effective_order(
        stage, [deferred(160), AttemptStarted(attempt=1, stage="stage1", checkpoint=None, first_step=1), deferred(185)], K2_START
    )
    published = (
        *range(16),
        *range(32, 38),
        *range(44, 52),
        *range(16, 32),
        *range(38, 44),
        *range(52, 160),
        *range(161, 186),
        *range(187, 360),
        160,
        186,
    )
    assert order == published
    assert order[-4:] == (358, 359, 160, 186)  # K2 §0.2
    assert sorted(order) == list(range(360))


def test_without_facts_chunks_stand_in_their_own_order(mini):
    assert effective_order(mini.recipe.stages[0], []) == (0, 1, 2)


def test_a_deferral_moves_only_its_own_stage(mini):
    facts = [deferred(0), deferred(0, "stage2")]
    assert effective_order(mini.recipe.stages[0], facts) == (1, 2, 0)
    assert effective_order(mini.recipe.stages[1], facts) == (0,)


def test_a_position_that_does_not_exist_is_refused(mini):
    with pytest.raises(ValueError, match="position 3 cannot be deferred: the order has the positions 0 to 2"):
        effective_order(mini.recipe.stages[0], [deferred(3)])


def test_skipped_ranges_are_sorted_and_joined():
    facts = [skipped(20, 25), skipped(3, 5), skipped(6, 8), skipped(22, 23), skipped(1, 9, "stage2")]
    ranges = skipped_ranges("stage1", facts)
    assert ranges == ((3, 8), (20, 25))
    assert [step for step in range(1, 30) if is_skipped(step, ranges)] == [3, 4, 5, 6, 7, 8, 20, 21, 22, 23, 24, 25]


def test_a_step_leads_to_its_rows_and_back(mini):
    stage = mini.recipe.stages[0]
    order = (2, 0, 1)
    assert chunk_of_step(stage, order, 1) == Seat(position=0, chunk=2, first_row=0, count=4)
    assert chunk_of_step(stage, order, 8) == Seat(position=0, chunk=2, first_row=28, count=4)
    assert chunk_of_step(stage, order, 9) == Seat(position=1, chunk=0, first_row=0, count=4)
    assert chunk_of_step(stage, order, 24) == Seat(position=2, chunk=1, first_row=28, count=4)
    for step in range(1, 25):
        seat = chunk_of_step(stage, order, step)
        assert {step_of_row(stage, seat.position, row) for row in range(seat.first_row, seat.first_row + seat.count)} == {step}


@pytest.mark.parametrize("step", [0, 25, -1])
def test_steps_outside_the_stage_are_refused(mini, step):
    with pytest.raises(ValueError, match="its steps are 1 to 24"):
        chunk_of_step(mini.recipe.stages[0], (0, 1, 2), step)
