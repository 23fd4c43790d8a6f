"""Which checkpoints are kept, and how the others go: on folders made by hand."""

from pathlib import Path

import pytest

from k2.checkpoint.retention import empty_trash, most_passing, move_to_trash, pin, pinned, retain, unpin
from k2.recipe.load import load_recipe
from k2.run.holdings import HeldCheckpoint, Holdings
from k2.run.layout import RunLayout
from k2.run.ledger import IncidentClosed, IncidentDecided, IncidentOpened
from k2.run.saving import due_checkpoint

MINI = str(Path(__file__).parents[1] / "mini.toml")
LONG = load_recipe(MINI, ("stages.stage1.chunks=6", "checkpoints.keep_last=1"))  # 28 steps are within a rollback's reach
NOBODY = frozenset()


def holdings(*checkpoints):
    return Holdings(prepared=True, checkpoints=checkpoints, reached={"stage1": 0, "stage2": 0}, released=False)


def of_stage1(*steps):
    return holdings(*(HeldCheckpoint(f"{kind}_{step}", kind, "stage1", step, 0) for step, kind in steps))


HELD = of_stage1((4, "rescue"), (8, "chunk"), (11, "stop"), (12, "rescue"), (16, "chunk"), (40, "chunk"))
OPENED = IncidentOpened(incident=1, stage="stage1", attempt=1, kind="malignant.long", onset_step=30, verdict_step=36)


def test_what_no_rollback_can_want_goes_and_every_chunk_end_stays():
    found = retain(LONG, [], HELD, NOBODY)
    assert found.removable == ("rescue_4", "stop_11")
    assert found.kept == ("chunk_8", "rescue_12", "chunk_16", "chunk_40")


def test_the_newest_are_kept_however_old():
    wider = load_recipe(MINI, ("stages.stage1.chunks=6", "checkpoints.keep_last=2"))
    assert retain(wider, [], HELD, NOBODY).removable == ("rescue_4",)


def test_what_is_pinned_or_was_gone_back_to_is_kept():
    assert retain(LONG, [], HELD, frozenset({"rescue_4"})).removable == ("stop_11",)
    back = IncidentDecided(incident=1, action="rollback", checkpoint="stop_11")
    assert retain(LONG, [OPENED, back, IncidentClosed(incident=1)], HELD, NOBODY).removable == ("rescue_4",)


def test_while_an_incident_is_open_nothing_goes():
    assert retain(LONG, [OPENED], HELD, NOBODY).removable == ()


def test_a_stages_rescues_age_on_in_the_next_stage():
    rescue = HeldCheckpoint("rescue", "rescue", "stage1", 23, 0)
    newer = HeldCheckpoint("newer", "rescue", "stage2", 3, 0)
    later = load_recipe(MINI, ("stages.stage2.chunks=8", "checkpoints.keep_last=1"))
    assert retain(later, [], holdings(rescue, newer, HeldCheckpoint("ckpt_004", "chunk", "stage2", 4, 0)), NOBODY).removable == ()
    assert retain(later, [], holdings(rescue, newer, HeldCheckpoint("ckpt_011", "chunk", "stage2", 32, 0)), NOBODY).removable == ("rescue",)


@pytest.mark.parametrize("every, last", [(1, 1), (3, 5), (5, 40), (20, 2)])
def test_no_more_lie_on_the_disk_than_is_said_before(every, last):
    wide = ("stages.stage1.chunks=40", f"checkpoints.rescue_every_steps={every}", f"checkpoints.keep_last={last}")
    recipe = load_recipe(MINI, wide)
    stage, held, trash, most = recipe.stage("stage1"), [], [], 0
    for step in range(1, stage.steps + 1):
        due = due_checkpoint(recipe, stage, step, trained=True)
        held += [] if due is None else [HeldCheckpoint(due.name, due.kind, "stage1", step, 0)]
        most = max(most, sum(one.kind == "rescue" for one in (*held, *trash)))
        if due is not None and due.kind == "chunk":  # a round: the trash is emptied, and filled anew
            trash = [one for one in held if one.name in retain(recipe, [], holdings(*held), NOBODY).removable]
            held = [one for one in held if one not in trash]
    assert most <= most_passing(recipe) <= most + 2 * -(-stage.steps_per_chunk // every)


def test_nothing_held_nothing_goes():
    assert retain(LONG, [], holdings(), NOBODY).removable == ()


@pytest.fixture
def layout(tmp_path):
    layout = RunLayout(tmp_path / "mini")
    for name in ("rescue_4", "stop_11"):
        layout.checkpoint(name).mkdir(parents=True)
        (layout.checkpoint(name) / "weights").write_bytes(b"numbers")
    return layout


def test_going_takes_two_rounds_and_who_reads_reads_on(layout):
    with (layout.checkpoint("rescue_4") / "weights").open("rb") as reader:
        move_to_trash(layout, ("rescue_4",))
        assert not layout.checkpoint("rescue_4").exists()
        assert (layout.trash / "rescue_4" / "weights").read_bytes() == b"numbers"
        assert empty_trash(layout) == ("rescue_4",)
        assert reader.read() == b"numbers"
    assert list(layout.trash.iterdir()) == []
    assert layout.checkpoint("stop_11").is_dir()


def test_a_pin_brings_back_what_lies_in_the_trash(layout):
    move_to_trash(layout, ("rescue_4", "stop_11"))
    pin(layout, "rescue_4")
    assert pinned(layout) == {"rescue_4"}
    assert empty_trash(layout) == ("stop_11",)
    assert (layout.checkpoint("rescue_4") / "weights").read_bytes() == b"numbers"
    unpin(layout, "rescue_4")
    assert pinned(layout) == frozenset()


def test_what_is_not_there_cannot_be_pinned(layout):
    with pytest.raises(ValueError, match="holds no checkpoint ckpt_009"):
        pin(layout, "ckpt_009")


def test_one_of_the_same_name_made_anew_goes_too(layout):
    move_to_trash(layout, ("rescue_4",))
    layout.checkpoint("rescue_4").mkdir()
    move_to_trash(layout, ("rescue_4",))
    assert not (layout.trash / "rescue_4" / "weights").exists()
