"""The sequence as a fold over the ledger."""

import json
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2.data.operations import Ahead, Asker, OperationRefused
from k2.data.order import Seat, Sequence, done, sequence_of, step_of_row, undone
from k2.recipe.load import load_recipe
from k2.run.ledger import (
    AttemptStarted,
    ChunkDeferred,
    ChunkRepeated,
    ChunksReordered,
    SamplesSkipped,
    StepsSkipped,
    append_facts,
    read_facts,
)
from k2.run.operations import ranges, words

K2 = load_recipe("k2_65b").stage("stage1")
SOMEBODY = Asker("somebody", "a reason")

# K2 §0.3 and §0.2: the order as it was published
PUBLISHED = "0-15, 32-37, 44-51, 16-31, 38-43, 52-159, 161-185, 187-359, 160, 186"


def deferred(position: int, stage: str = "stage1") -> ChunkDeferred:
    return ChunkDeferred(stage=stage, position=position, who="policy", why="spike")


def skipped(first: int, last: int, stage: str = "stage1") -> StepsSkipped:
    return StepsSkipped(stage=stage, first_step=first, last_step=last, who="policy", why="spike")


def rows_skipped(chunk: int, first: int, last: int) -> SamplesSkipped:
    return SamplesSkipped(stage="stage1", chunk=chunk, first_row=first, last_row=last, who="w", why="y")


def ahead_of(sequence: Sequence, first_step: int = 1) -> Ahead:
    return Ahead(sequence.stage, sequence, first_step)


def test_what_k2_did_by_hand_is_three_facts_that_make_its_published_order(tmp_path):
    """Before training, 22 chunks that were ready came first; then two chunks of spikes were deferred.

    "Checkpoint k is the state after k chunks" settles the off-by-one of K2 §4.2. The first spike's chunk stands at position 160,
    so training goes on from ckpt_160. The second deferral is position 185 of the order that the first one left: chunk 186,
    and the checkpoint that has not seen it is ckpt_185, not the 186 of K2's card.
    """
    ledger = tmp_path / "ledger.jsonl"
    early = (*range(32, 38), *range(44, 52), *range(16, 32), *range(38, 44))
    append_facts(ledger, ahead_of(sequence_of(K2, [])).reorder(16, early, SOMEBODY))
    at_160 = ahead_of(sequence_of(K2, read_facts(ledger)), first_step=160 * 941 + 1)
    append_facts(ledger, AttemptStarted(attempt=1, stage="stage1", checkpoint=None, first_step=1), at_160.defer(160, SOMEBODY))
    assert at_160.sequence.order[160] == 160

    left = sequence_of(K2, read_facts(ledger))
    assert left.order[185] == 186
    with pytest.raises(OperationRefused, match="it begins at step 174086, and stage1 is trained to step 175026"):
        ahead_of(left, first_step=186 * 941 + 1).defer(185, SOMEBODY)
    append_facts(ledger, ahead_of(left, first_step=185 * 941 + 1).defer(185, SOMEBODY))

    order = sequence_of(K2, read_facts(ledger)).order
    assert ranges(order) == PUBLISHED
    assert order[-4:] == (358, 359, 160, 186)
    assert sorted(order) == list(range(360))


def test_without_facts_chunks_stand_in_their_own_order(mini):
    assert sequence_of(mini.recipe.stages[0], []).order == (0, 1, 2)


def test_an_operation_moves_only_its_own_stage(mini):
    facts = [deferred(0), deferred(0, "stage2")]
    assert sequence_of(mini.recipe.stages[0], facts).order == (1, 2, 0)
    assert sequence_of(mini.recipe.stages[1], facts).order == (0,)


def test_a_position_that_does_not_exist_is_refused(mini):
    with pytest.raises(OperationRefused, match="position 3 cannot be deferred: the order has the positions 0 to 2"):
        sequence_of(mini.recipe.stages[0], [deferred(3)])


def test_skipped_ranges_are_sorted_and_joined():
    facts = [skipped(20, 25), skipped(3, 5), skipped(6, 8), skipped(22, 23), skipped(1, 9, "stage2")]
    sequence = sequence_of(K2, facts)
    assert sequence.skipped_steps == ((3, 8), (20, 25))
    assert [step for step in range(1, 30) if sequence.is_skipped(step)] == [3, 4, 5, 6, 7, 8, 20, 21, 22, 23, 24, 25]


def test_a_step_leads_to_its_rows_and_back(mini):
    stage = mini.recipe.stages[0]
    sequence = sequence_of(stage, [ChunksReordered(stage="stage1", position=0, before=(0, 1, 2), chunks=(2, 0, 1), who="w", why="y")])
    assert sequence.seat(1) == Seat(position=0, chunk=2, first_row=0, count=4)
    assert sequence.seat(8) == Seat(position=0, chunk=2, first_row=28, count=4)
    assert sequence.seat(9) == Seat(position=1, chunk=0, first_row=0, count=4)
    assert sequence.seat(24) == Seat(position=2, chunk=1, first_row=28, count=4)
    for step in range(1, 25):
        seat = sequence.seat(step)
        assert sequence.rows(step) == slice(seat.first_row, seat.first_row + seat.count)
        assert {step_of_row(stage, seat.position, row) for row in range(seat.first_row, seat.first_row + seat.count)} == {step}


@pytest.mark.parametrize("step", [0, 25, -1])
def test_steps_outside_the_stage_are_refused(mini, step):
    with pytest.raises(ValueError, match="its steps are 1 to 24"):
        sequence_of(mini.recipe.stages[0], []).seat(step)


def test_rows_that_are_skipped_are_stood_in_for_by_the_rest_of_their_step(mini):
    """Row 5 goes, then rows 8 to 14 of chunk 1: of its second step one row, of its third all, of its fourth all but row 15."""
    sequence = sequence_of(mini.recipe.stages[0], [rows_skipped(1, 5, 5), rows_skipped(1, 8, 14)])
    assert sequence.rows(9) == [0, 1, 2, 3]
    assert sequence.rows(10) == [4, 4, 6, 7]
    assert [step for step in range(1, 25) if sequence.is_skipped(step)] == [11, 12]
    assert sequence.rows(13) == [16, 17, 18, 19]
    assert [sequence.times(1, row) for row in (4, 5, 6, 8, 15, 16)] == [2, 0, 1, 0, 0, 1]
    assert isinstance(sequence.rows(1), slice)


def test_skipped_rows_go_where_their_chunk_goes(mini):
    sequence = sequence_of(mini.recipe.stages[0], [rows_skipped(0, 0, 1), deferred(0)])
    assert sequence.rows(17) == [2, 3, 2, 3]
    assert sequence.positions(0) == [2]


def test_a_repeated_chunk_takes_the_place_of_another(mini):
    repeat = ahead_of(sequence_of(mini.recipe.stages[0], [])).repeat(0, 2, SOMEBODY)
    sequence = sequence_of(mini.recipe.stages[0], [repeat])
    assert sequence.order == (0, 1, 0)
    assert (sequence.positions(0), sequence.positions(2)) == ([0, 2], [])
    assert words(repeat) == "chunk 0 of position 0 repeated at position 2, in the place of chunk 2"


SMALL = load_recipe("k2_tiny").stage("stage1").model_copy(update={"chunks": 7, "steps_per_chunk": 5})


@st.composite
def operations(draw):
    """Operations that a person may ask for, each on the order that those before it left."""
    facts = []
    for _ in range(draw(st.integers(0, 8))):
        ahead = ahead_of(sequence_of(SMALL, facts))
        position = draw(st.integers(0, SMALL.chunks - 2))
        kind = draw(st.sampled_from(["defer", "reorder", "repeat", "steps", "rows"]))
        if kind == "defer":
            facts.append(ahead.defer(position, SOMEBODY))
        elif kind == "reorder":
            tail = ahead.sequence.order[position : position + draw(st.integers(1, SMALL.chunks))]
            facts.append(ahead.reorder(position, tuple(draw(st.permutations(tail))), SOMEBODY))
        elif kind == "repeat":
            facts.append(ahead.repeat(position, draw(st.integers(position + 1, SMALL.chunks - 1)), SOMEBODY))
        elif kind == "steps":
            first = draw(st.integers(1, SMALL.steps))
            facts.append(ahead.skip_steps(first, draw(st.integers(first, SMALL.steps)), SOMEBODY))
        elif ahead.sequence.positions(position):
            first = draw(st.integers(0, SMALL.samples_per_chunk - 1))
            facts.append(ahead.skip_rows(position, first, draw(st.integers(first, SMALL.samples_per_chunk - 1)), SOMEBODY))
    return facts


@settings(max_examples=150, deadline=None)
@given(facts=operations())
def test_an_order_is_always_as_long_as_its_stage_over_its_chunks_and_every_operation_can_be_undone(facts):
    orders = list(accumulate(facts, done, initial=tuple(range(SMALL.chunks))))
    assert all(len(order) == SMALL.chunks and set(order) <= set(range(SMALL.chunks)) for order in orders)
    if not any(isinstance(fact, ChunkRepeated) for fact in facts):
        assert all(sorted(order) == list(range(SMALL.chunks)) for order in orders)
    back = list(accumulate(reversed(facts), undone, initial=orders[-1]))
    assert back == orders[::-1]


@settings(max_examples=60, deadline=None)
@given(facts=operations())
def test_every_step_is_a_whole_batch_of_its_own_rows_or_is_not_trained(facts):
    sequence = sequence_of(SMALL, facts)
    for step in range(1, SMALL.steps + 1):
        if sequence.is_skipped(step):
            continue
        seat, rows = sequence.seat(step), sequence.rows(step)
        rows = list(range(rows.start, rows.stop)) if isinstance(rows, slice) else rows
        assert len(rows) == SMALL.batch_samples
        assert set(rows) <= set(range(seat.first_row, seat.first_row + seat.count))
        assert max(map(rows.count, rows)) <= 2
        assert [sequence.times(seat.position, row) for row in rows] == [rows.count(row) for row in rows]


@settings(max_examples=30, deadline=None)
@given(facts=operations())
def test_what_is_read_back_gives_the_same_sequence(facts, tmp_path_factory):
    ledger = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    if facts:
        append_facts(ledger, *facts)
        assert all(json.loads(line)["why"] == "a reason" for line in ledger.read_text().splitlines())
    assert sequence_of(SMALL, read_facts(ledger)) == sequence_of(SMALL, facts)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda a: a.defer(2, SOMEBODY), "position 2 cannot be deferred: it begins at step 11, and stage1 is trained to step 12"),
        (lambda a: a.defer(2, SOMEBODY), "use positions from 3 on, or go back before it first"),
        (lambda a: a.defer(6, SOMEBODY), "position 6 is the last of stage1"),
        (lambda a: a.reorder(1, (2, 1), SOMEBODY), "position 1 cannot be reordered"),
        (lambda a: a.reorder(3, (3, 3), SOMEBODY), r"a reordering keeps every chunk: from position 3 on stand \(3, 4\)"),
        (lambda a: a.repeat(0, 2, SOMEBODY), "position 2 cannot be given to another chunk"),
        (lambda a: a.repeat(4, 4, SOMEBODY), "a chunk is repeated later"),
        (lambda a: a.repeat(4, 7, SOMEBODY), "the order of stage1 has the positions 0 to 6"),
        (lambda a: a.skip_steps(12, 20, SOMEBODY), "steps 12 to 20 cannot be skipped: stage1 is trained to step 12"),
        (lambda a: a.skip_steps(30, 36, SOMEBODY), "steps 30 to 36 are no range of stage1's steps 1 to 35"),
        (lambda a: a.skip_rows(2, 0, 5, SOMEBODY), "row 0 of chunk 2 cannot be skipped: it stands at step 11"),
        (lambda a: a.skip_rows(7, 0, 5, SOMEBODY), "stage1 has the chunks 0 to 6"),
    ],
)
def test_what_is_trained_is_not_changed_and_the_refusal_has_the_numbers(ask, said):
    """Trained to step 12: in the middle of position 2."""
    with pytest.raises(OperationRefused, match=said):
        ask(ahead_of(sequence_of(SMALL, []), first_step=13))


def test_what_is_ahead_can_be_changed():
    ahead = ahead_of(sequence_of(SMALL, []), first_step=13)
    assert ahead.defer(3, SOMEBODY).position == 3
    assert ahead.repeat(0, 3, SOMEBODY).replaced == 3
    assert ahead.skip_steps(13, 13, SOMEBODY).first_step == 13
    last = SMALL.samples_per_chunk - 1
    assert ahead.skip_rows(2, last, last, SOMEBODY).chunk == 2


def test_an_operation_on_another_order_than_it_says_is_refused():
    """A ledger put together by hand does not silently mean something else."""
    moved = ChunksReordered(stage="stage1", position=3, before=(4, 5), chunks=(5, 4), who="w", why="y")
    with pytest.raises(OperationRefused, match=r"from position 3 on stand the chunks \(3, 4\)"):
        sequence_of(SMALL, [moved])
    again = ChunkRepeated(stage="stage1", position=1, chunk=9, again_at=3, replaced=3, who="w", why="y")
    with pytest.raises(OperationRefused, match="stand the chunks 1 and 3, not 9 and 3"):
        sequence_of(SMALL, [again])
