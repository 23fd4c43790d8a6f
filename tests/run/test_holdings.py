"""What a run directory holds is what its receipts say, now."""

from pathlib import Path

from filled_run import lay, lay_chunk, lay_prepared, lay_rescue, make_anew, started, write_records

from k2.recipe.schema import Recipe
from k2.run.durable import open_beside
from k2.run.holdings import duty_folder, held_checkpoints, read_holdings
from k2.run.layout import RunLayout
from k2.run.ledger import Fact
from k2.run.receipt import RECEIPT


def test_nothing_is_held_where_nothing_is(recipe: Recipe, layout: RunLayout) -> None:
    held = read_holdings(recipe, layout, [])
    assert (held.prepared, held.checkpoints, held.reached, held.released) == (False, (), {"stage1": 0, "stage2": 0}, False)


def test_prepared_means_the_chunks_and_the_suite(recipe: Recipe, layout: RunLayout) -> None:
    lay(layout.all_chunks, "chunks")
    assert not read_holdings(recipe, layout, []).prepared
    lay(layout.suite(recipe.evaluation.suite), "suite")
    assert read_holdings(recipe, layout, []).prepared


def test_checkpoints_come_by_stage_then_step_and_a_chunks_last(recipe: Recipe, layout: RunLayout) -> None:
    lay_chunk(layout, 4)
    lay_rescue(layout, "stage2", 2, "stop")
    lay_chunk(layout, 2)
    lay_rescue(layout, "stage1", 16)
    lay_rescue(layout, "stage1", 12)
    lay_chunk(layout, 1)
    held = [(c.name, c.kind) for c in held_checkpoints(recipe, layout)]
    assert held == [
        ("ckpt_001", "chunk"),
        ("rescue_stage1_000012", "rescue"),
        ("rescue_stage1_000016", "rescue"),
        ("ckpt_002", "chunk"),
        ("rescue_stage2_000002", "stop"),
        ("ckpt_004", "chunk"),
    ]


def test_what_is_still_being_written_or_has_no_readable_receipt_is_not_held(recipe: Recipe, layout: RunLayout) -> None:
    lay_chunk(layout, 1)
    beside = open_beside(layout.checkpoint("ckpt_002"))
    (beside / RECEIPT).write_bytes((layout.checkpoint("ckpt_001") / RECEIPT).read_bytes())
    broken = layout.checkpoint("ckpt_003")
    broken.mkdir()
    (broken / RECEIPT).write_text('{"kind": "check')
    assert [c.name for c in held_checkpoints(recipe, layout)] == ["ckpt_001"]


def test_a_checkpoint_made_anew_under_the_same_name_is_read_anew(recipe: Recipe, layout: RunLayout) -> None:
    lay_chunk(layout, 1, tokens=1000)
    assert [c.tokens for c in held_checkpoints(recipe, layout)] == [1000]
    make_anew(layout, 1, tokens=900)
    assert [c.tokens for c in held_checkpoints(recipe, layout)] == [900]


def test_two_runs_with_the_same_names_are_two(recipe: Recipe, tmp_path: Path) -> None:
    one, two = RunLayout(tmp_path / "one"), RunLayout(tmp_path / "two")
    lay_chunk(one, 1, tokens=1)
    lay_chunk(two, 1, tokens=2)
    assert [held_checkpoints(recipe, layout)[0].tokens for layout in (one, two)] == [1, 2]


def test_a_duty_is_settled_by_its_receipt(recipe: Recipe, layout: RunLayout) -> None:
    lay_chunk(layout, 1)
    duty_folder(layout, "ckpt_001", "published").mkdir(parents=True)
    assert held_checkpoints(recipe, layout)[0].settled == frozenset()
    lay(duty_folder(layout, "ckpt_001", "verified"), "verified")
    lay(duty_folder(layout, "ckpt_001", "shown"), "shown")
    assert held_checkpoints(recipe, layout)[0].settled == {"verified", "shown"}


def test_reached_is_the_last_step_of_the_newest_attempt_of_each_stage(recipe: Recipe, layout: RunLayout) -> None:
    lay_prepared(layout, recipe.evaluation.suite)
    facts: list[Fact] = [started(1), started(2, 5), started(3, stage="stage2")]
    write_records(layout, 1, *range(1, 13))
    assert read_holdings(recipe, layout, facts[:1]).reached == {"stage1": 12, "stage2": 0}
    assert read_holdings(recipe, layout, facts[:2]).reached == {"stage1": 4, "stage2": 0}  # gone back, nothing trained yet
    write_records(layout, 2, 5, 6)
    write_records(layout, 3, 1, stage="stage2")
    assert read_holdings(recipe, layout, facts).reached == {"stage1": 6, "stage2": 1}
