"""Old checkpoints are looked at in turn, one a day."""

from k2.checkpoint.scrub import EVERY_SECONDS, due_for_scrub, scrub
from k2.run.durable import durable_folder
from k2.run.layout import RunLayout
from k2.run.receipt import Receipt, now, seal_folder

NAMES = ("ckpt_001", "ckpt_002")


def test_each_in_turn_one_a_day_and_what_rots_is_named(tmp_path):
    layout = RunLayout(tmp_path / "mini")
    for name in NAMES:
        with durable_folder(layout.checkpoint(name)) as folder:
            (folder / "weights").write_bytes(b"numbers")
            seal_folder(folder, Receipt(kind="checkpoint", name=name, recipe="r", made_at=now()))
    assert due_for_scrub(layout, NAMES, 1e9) == "ckpt_001"
    assert scrub(layout, "ckpt_001", 1e9) == []
    assert due_for_scrub(layout, NAMES, 1e9 + EVERY_SECONDS - 1) is None
    assert due_for_scrub(layout, NAMES, 1e9 + EVERY_SECONDS) == "ckpt_002"
    (layout.checkpoint("ckpt_002") / "weights").write_bytes(b"Numbers")
    assert "weights: its content does not match" in scrub(layout, "ckpt_002", 1e9 + EVERY_SECONDS)[0]
    assert due_for_scrub(layout, NAMES, 1e9 + 2 * EVERY_SECONDS) == "ckpt_001"
    assert scrub(layout, "ckpt_009", 1e9 + 2 * EVERY_SECONDS) == []  # set aside meanwhile
    assert due_for_scrub(layout, (), 2e9) is None
