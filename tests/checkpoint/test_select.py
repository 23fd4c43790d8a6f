"""Which checkpoints may be started from and which may go, on folders made by hand: no trainer is needed."""

import shutil
from pathlib import Path

import pytest

from k2.checkpoint.commit import FORMAT
from k2.checkpoint.select import set_bad_aside, verify
from k2.recipe.load import load_recipe
from k2.run.durable import durable_folder
from k2.run.holdings import DUTIES, duty_folder, held_checkpoints
from k2.run.layout import RunLayout
from k2.run.receipt import Receipt, commit_receipt_only, now, read_receipt, seal_folder, write_receipt

RECIPE = load_recipe(str(Path(__file__).parents[1] / "mini.toml"))


@pytest.fixture
def layout(tmp_path):
    layout = RunLayout(tmp_path / "mini")
    for name, kind, step in (("rescue_stage1_000004", "rescue", 4), ("ckpt_001", "chunk", 8), ("ckpt_002", "chunk", 16)):
        commit(layout, name, kind, step)
    return layout


def commit(layout, name, kind, step, parent=None):
    with durable_folder(layout.checkpoint(name)) as folder:
        (folder / "state").mkdir()
        (folder / "state" / "layer_00.pt").write_bytes(f"weights of step {step}".encode() * 100)
        (folder / "state" / "optim.pt").write_bytes(f"moments of step {step}".encode() * 100)
        facts = {"kind": kind, "stage": "stage1", "step": step, "tokens": 128 * step, "format": FORMAT, "parent": parent}
        inputs = {"parent": read_receipt(layout.checkpoint(parent)).digest} if parent else {}
        receipt = seal_folder(folder, Receipt(kind="checkpoint", name=name, recipe="r", made_at=now(), inputs=inputs, facts=facts))
        write_receipt(folder / "receipt.json", receipt.model_copy(update={"sealed": receipt.digest}))


def held(layout):
    return [c.name for c in held_checkpoints(RECIPE, layout)]


def change_the_receipt(layout):
    path = layout.checkpoint("ckpt_002") / "receipt.json"
    path.write_bytes(path.read_bytes().replace(b'"tokens":2048', b'"tokens":2049').replace(b'"tokens": 2048', b'"tokens": 2049'))


def exchange_the_whole(layout):
    """By one that agrees with its own receipt: only who went on from it knows better."""
    shutil.rmtree(layout.checkpoint("ckpt_002"))
    commit(layout, "ckpt_002", "chunk", 17)


def flip_a_bit(layout):
    path = layout.checkpoint("ckpt_002") / "state" / "layer_00.pt"
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)


def truncate(layout):
    path = layout.checkpoint("ckpt_002") / "state" / "optim.pt"
    path.write_bytes(path.read_bytes()[:-1])


def zero_a_page(layout):
    path = layout.checkpoint("ckpt_002") / "state" / "optim.pt"
    path.write_bytes(b"\0" * 512 + path.read_bytes()[512:])


def lose_a_file(layout):
    (layout.checkpoint("ckpt_002") / "state" / "optim.pt").unlink()


def swap_with_an_older(layout):
    older = layout.checkpoint("ckpt_001") / "state" / "optim.pt"
    (layout.checkpoint("ckpt_002") / "state" / "optim.pt").write_bytes(older.read_bytes())


def put_a_file_in(layout):
    (layout.checkpoint("ckpt_002") / "state" / "layer_01.pt").write_bytes(b"foreign")


def take_the_receipt_of_another(layout):
    (layout.checkpoint("ckpt_002") / "receipt.json").write_bytes((layout.checkpoint("ckpt_001") / "receipt.json").read_bytes())


def tear_the_receipt(layout):
    path = layout.checkpoint("ckpt_002") / "receipt.json"
    path.write_bytes(path.read_bytes()[:100])


DAMAGES = [
    flip_a_bit,
    truncate,
    zero_a_page,
    lose_a_file,
    swap_with_an_older,
    put_a_file_in,
    take_the_receipt_of_another,
    tear_the_receipt,
    change_the_receipt,
]


def test_untouched_checkpoints_verify(layout):
    assert [verify(layout, name) for name in held(layout)] == [[], [], []]
    assert set_bad_aside(layout, "ckpt_002") == ()
    assert held(layout) == ["rescue_stage1_000004", "ckpt_001", "ckpt_002"]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_every_damage_is_seen_and_set_aside(layout, damage):
    damage(layout)
    assert verify(layout, "ckpt_002") != []
    rejected = set_bad_aside(layout, "ckpt_002")
    assert [bad.name for bad in rejected] == ["ckpt_002"]
    assert rejected[0].why
    assert held(layout) == ["rescue_stage1_000004", "ckpt_001"]
    assert (layout.quarantine / "ckpt_002" / "checkpoints" / "ckpt_002").is_dir()


def test_a_checkpoint_exchanged_for_another_good_one_is_told_by_its_child(layout):
    commit(layout, "rescue_stage1_000020", "rescue", 20, parent="ckpt_002")
    assert verify(layout, "ckpt_002") == []
    exchange_the_whole(layout)
    assert verify(layout, "ckpt_002") == ["rescue_stage1_000020 went on from another ckpt_002"]
    assert verify(layout, "rescue_stage1_000020") == []


def test_the_damaged_file_is_named(layout):
    flip_a_bit(layout)
    assert "state/layer_00.pt" in verify(layout, "ckpt_002")[0]


def test_a_checkpoint_without_a_readable_receipt_goes_though_another_is_started_from(layout):
    """It would stand in the way when the trainer comes to save under its name."""
    tear_the_receipt(layout)
    assert [bad.name for bad in set_bad_aside(layout, "ckpt_001")] == ["ckpt_002"]


def test_the_quarantine_keeps_every_bad_one_of_a_name(layout):
    for expected in ("ckpt_002", "ckpt_002-2", "ckpt_002-3"):
        flip_a_bit(layout)
        set_bad_aside(layout, "ckpt_002")
        assert (layout.quarantine / expected / "checkpoints" / "ckpt_002" / "receipt.json").is_file()
        commit(layout, "ckpt_002", "chunk", 16)


def test_what_was_made_of_a_bad_one_goes_with_it_and_is_owed_again(layout):
    for duty in DUTIES:
        commit_receipt_only(duty_folder(layout, "ckpt_002", duty), Receipt(kind=duty, name="ckpt_002", recipe="r", made_at=now()))
    flip_a_bit(layout)
    set_bad_aside(layout, "ckpt_002")
    commit(layout, "ckpt_002", "chunk", 16)
    assert held_checkpoints(RECIPE, layout)[-1].settled == frozenset()
    kept = {path.parent.parent.name for path in (layout.quarantine / "ckpt_002").rglob("receipt.json")}
    assert kept == {"checkpoints", "verified", "exports", "scores", "published", "shown"}


def test_a_start_that_is_not_there_is_reported(layout):
    assert [bad.name for bad in set_bad_aside(layout, "ckpt_009")] == ["ckpt_009"]


def test_from_scratch_there_is_nothing_to_verify(tmp_path):
    assert set_bad_aside(RunLayout(tmp_path / "new"), None) == ()
