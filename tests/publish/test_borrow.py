"""A published checkpoint is borrowed whole or not at all, one at a time, and what is known of it follows the target."""

from pathlib import Path

import pytest
from laid_run import Run

from k2.publish.borrow import Library, borrowing_layout
from k2.publish.failure import PublishFailed, PublishRefused
from k2.publish.target import FolderTarget
from k2.publish.upload import publish_checkpoint
from k2.recipe.place import Place
from k2.run.layout import RunLayout
from k2.run.opening import existing_runs, open_run
from k2.run.receipt import check_files, find_receipt, read_receipt


@pytest.fixture
def target(run: Run, tmp_path: Path) -> FolderTarget:
    published = FolderTarget(tmp_path / "published")
    for number in (1, 2):
        publish_checkpoint(run.recipe, run.layout, run.checkpoint(number), [published])
    return published


@pytest.fixture
def layout(target: FolderTarget, tmp_path: Path) -> RunLayout:
    return borrowing_layout(tmp_path / "runs-elsewhere", target)


def test_an_export_is_there_while_it_is_borrowed(run: Run, target: FolderTarget, layout: RunLayout) -> None:
    with Library.at(target, layout, print) as library:
        library.furnish(Place())
        assert [published.name for published in library.checkpoints()] == ["ckpt_001", "ckpt_002"]
        [second] = library.checkpoints(("ckpt_002",))
        with library.borrowed(second):
            export = read_receipt(layout.export("ckpt_002"))
            assert export == read_receipt(run.layout.export("ckpt_002"))
            assert check_files(layout.export("ckpt_002"), export) == []
        assert find_receipt(layout.export("ckpt_002")) is None
        assert library.suites_published_with(second) == {"k2_tiny"}
    assert open_run(layout)[0] == run.recipe
    assert existing_runs(layout.root.parent.parent) == []  # nobody takes it for a run to go on with


def test_a_file_that_is_not_what_was_published_is_not_lent(target: FolderTarget, layout: RunLayout) -> None:
    (target.path / "ckpt_001" / "model.safetensors").write_bytes(b"another model")
    with Library.at(target, layout, print) as library:
        library.furnish(Place())
        [first] = library.checkpoints(("ckpt_001",))
        with pytest.raises(PublishFailed, match=r"ckpt_001/model.safetensors is not what its receipt says"), library.borrowed(first):
            pass
    assert not layout.export("ckpt_001").exists()


def test_what_is_not_published_is_refused(target: FolderTarget, layout: RunLayout) -> None:
    with Library.at(target, layout, print) as library:
        library.furnish(Place())
        with pytest.raises(PublishRefused, match="holds no published ckpt_007"):
            library.checkpoints(("ckpt_007",))
