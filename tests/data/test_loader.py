"""The loader: the right rows in the effective order, and no damaged byte."""

import numpy as np
import pytest

from k2.data.chunk import chunk_receipt
from k2.data.loader import SampleReader
from k2.data.operations import Ahead, Asker
from k2.data.order import sequence_of
from k2.recipe.load import load_recipe
from k2.run.ledger import ChunkDeferred, StepsSkipped
from k2.run.receipt import BrokenOutput, digest_files, read_receipt, write_receipt


def raw_rows(prepared, stage, chunk: int) -> np.ndarray:
    return np.fromfile(prepared.layout.chunk(stage.name, chunk), dtype="<u2").reshape(-1, stage.context)


def test_steps_take_the_rows_one_after_the_other(mini):
    for stage in mini.recipe.stages:
        reader = SampleReader(mini.recipe, mini.layout, stage, [])
        steps = [reader.step(step) for step in range(1, stage.steps + 1)]
        assert all(rows.shape == (stage.batch_samples, stage.context) and rows.dtype == np.uint16 for rows in steps)
        expected = np.concatenate([raw_rows(mini, stage, chunk) for chunk in range(stage.chunks)])
        assert np.array_equal(np.concatenate(steps), expected)


def test_any_step_can_be_read_at_any_time(mini):
    stage = mini.recipe.stages[0]
    once = SampleReader(mini.recipe, mini.layout, stage, [])
    in_order = {step: once.step(step) for step in range(1, 25)}
    for step in (24, 1, 17, 8, 9):
        assert np.array_equal(SampleReader(mini.recipe, mini.layout, stage, []).step(step), in_order[step])
        assert np.array_equal(once.step(step), in_order[step])


def test_a_deferral_changes_what_stands_where(mini):
    stage = mini.recipe.stages[0]
    reader = SampleReader(mini.recipe, mini.layout, stage, [ChunkDeferred(stage="stage1", position=1, who="w", why="y")])
    assert np.array_equal(reader.step(9), raw_rows(mini, stage, 2)[:4])
    assert np.array_equal(reader.step(17), raw_rows(mini, stage, 1)[:4])


def test_a_skipped_step_cannot_be_read(mini):
    reader = SampleReader(
        mini.recipe, mini.layout, mini.recipe.stages[0], [StepsSkipped(stage="stage1", first_step=5, last_step=6, who="w", why="y")]
    )
    assert [step for step in range(1, 25) if reader.is_skipped(step)] == [5, 6]
    with pytest.raises(ValueError, match="step 5 of stage1 is skipped"):
        reader.step(5)
    reader.step(7)


def test_what_is_read_may_be_changed_by_the_reader_alone(mini):
    reader = SampleReader(mini.recipe, mini.layout, mini.recipe.stages[0], [])
    rows = reader.step(1)
    before = rows.copy()
    rows[:] = 0
    assert np.array_equal(reader.step(1), before)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-64])


def flip_one_bit(path):
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "has 1984 bytes, its receipt says 2048"),
        (flip_one_bit, "does not match the digest"),
        (lambda p: p.unlink(), "is missing"),
        (lambda p: p.write_bytes(b""), "has 0 bytes, its receipt says 2048"),
    ],
)
def test_a_damaged_chunk_is_never_trained_on(own_copy, damage, said):
    damage(own_copy.layout.chunk("stage1", 1))
    reader = SampleReader(own_copy.recipe, own_copy.layout, own_copy.recipe.stages[0], [])
    reader.step(8)
    with pytest.raises(BrokenOutput, match=rf"stage1/chunk_001 .*chunk_001.bin: .*{said}.*Remove chunk_001.json"):
        reader.step(9)
    after = raw_rows(own_copy, own_copy.recipe.stages[0], 2)  # what lies behind it has not moved
    assert np.array_equal(reader.step(17), after[:4])


def test_a_damaged_chunk_can_be_left_out_by_an_operation(own_copy):
    truncate(own_copy.layout.chunk("stage1", 1))
    stage = own_copy.recipe.stages[0]
    left_out = Ahead(stage, sequence_of(stage, []), first_step=9).repeat(0, 1, Asker("ada", "chunk 1 is damaged"))
    reader = SampleReader(own_copy.recipe, own_copy.layout, stage, [left_out])
    assert np.array_equal(reader.step(9), raw_rows(own_copy, stage, 0)[:4])
    assert np.array_equal(reader.step(17), raw_rows(own_copy, stage, 2)[:4])


def test_a_chunk_that_changed_since_it_was_verified_is_verified_again(own_copy):
    reader = SampleReader(own_copy.recipe, own_copy.layout, own_copy.recipe.stages[0], [])
    reader.step(1)
    reader.step(9)
    assert reader.step(2).shape == (4, 32)
    reader.step(9)
    flip_one_bit(own_copy.layout.chunk("stage1", 0))
    with pytest.raises(BrokenOutput, match="does not match the digest"):
        reader.step(1)


def test_a_missing_receipt_means_that_the_chunk_does_not_exist(own_copy):
    chunk_receipt(own_copy.layout, "stage1", 0).unlink()
    with pytest.raises(BrokenOutput, match="no receipt"):
        SampleReader(own_copy.recipe, own_copy.layout, own_copy.recipe.stages[0], []).step(1)


def test_data_that_was_never_prepared_is_refused_at_once(own_copy):
    (own_copy.layout.all_chunks / "receipt.json").unlink()
    with pytest.raises(BrokenOutput, match="no receipt"):
        SampleReader(own_copy.recipe, own_copy.layout, own_copy.recipe.stages[0], [])


def test_a_chunk_replaced_together_with_its_receipt_is_seen(own_copy):
    layout = own_copy.layout
    rows, path = layout.chunk("stage1", 0), chunk_receipt(layout, "stage1", 0)
    flip_one_bit(rows)
    files = digest_files(rows.parent, [rows, layout.chunk_index("stage1", 0)])
    write_receipt(path, read_receipt(path).model_copy(update={"files": files}))
    with pytest.raises(BrokenOutput, match="stage1/chunk_000 is not the chunk"):
        SampleReader(own_copy.recipe, layout, own_copy.recipe.stages[0], []).step(1)


def test_ids_beyond_the_model_are_refused(mini):
    small = mini.recipe.model_copy(update={"model": mini.recipe.model.model_copy(update={"vocab_rows": 300})})
    with pytest.raises(BrokenOutput, match=r"model\.vocab_rows = 300"):
        SampleReader(small, mini.layout, mini.recipe.stages[0], []).step(1)


def test_chunks_of_another_shape_are_refused(mini):
    other = load_recipe("k2_tiny").stages[0].model_copy(update={"chunks": 3, "steps_per_chunk": 8})
    with pytest.raises(BrokenOutput, match="holds 32 samples of 32 tokens, but the recipe's stage1 wants 128 of 128"):
        SampleReader(mini.recipe, mini.layout, other, []).step(1)
