"""What goes into a parcel: what receipts list and agree with, and nothing else."""

from pathlib import Path

import pytest
from laid_run import Run

from k2.publish.failure import PublishRefused
from k2.publish.target import FolderTarget
from k2.publish.upload import pack_checkpoint, publish_checkpoint
from k2.run.receipt import RECEIPT, FileDigest, digest_files, read_receipt


def _list_also(run: Run, name: str, *files: FileDigest) -> None:
    """Forge the export's receipt so that it lists more."""
    run.forge_export(name, files=(*read_receipt(run.layout.export(name)).files, *files))


@pytest.mark.parametrize("planted", [".env", "trainer.log", "sub/credentials", ".git/config"])
def test_a_file_outside_the_receipt_is_never_published(run: Run, tmp_path: Path, planted: str) -> None:
    name, target = run.checkpoint(1), FolderTarget(tmp_path / "out")
    secret = run.layout.export(name) / planted
    secret.parent.mkdir(exist_ok=True)
    secret.write_text("AWS_SECRET_ACCESS_KEY=hunter2")
    with pytest.raises(PublishRefused, match="does not list"):
        publish_checkpoint(run.recipe, run.layout, name, [target])
    assert not target.path.exists()


def test_a_planted_link_is_not_followed(run: Run, tmp_path: Path) -> None:
    name = run.checkpoint(1)
    (tmp_path / "secret").write_text("hunter2")
    (run.layout.export(name) / "weights").symlink_to(tmp_path / "secret")
    with pytest.raises(PublishRefused, match="does not list"):
        pack_checkpoint(run.recipe, run.layout, name, tmp_path)


@pytest.mark.parametrize(
    "path", ["../../ledger.jsonl", "/etc/passwd", "a/../../x", "..", ".env", "a/.ssh/id", "a\\..\\x", "a\nb", "", "a//b"]
)
def test_names_that_lead_out_or_hide_are_refused(run: Run, tmp_path: Path, path: str) -> None:
    name = run.checkpoint(1)
    _list_also(run, name, FileDigest(path=path, bytes=1, sha256="0" * 64))
    with pytest.raises(PublishRefused, match="no name to publish"):
        pack_checkpoint(run.recipe, run.layout, name, tmp_path)


def test_a_listed_link_out_of_the_folder_is_refused(run: Run, tmp_path: Path) -> None:
    name = run.checkpoint(1)
    (tmp_path / "secret").write_text("hunter2")
    link = run.layout.export(name) / "vocabulary"
    link.symlink_to(tmp_path / "secret")
    _list_also(run, name, *digest_files(run.layout.export(name), [link]))
    with pytest.raises(PublishRefused, match="leads out of its folder"):
        pack_checkpoint(run.recipe, run.layout, name, tmp_path)


def test_two_files_for_one_place_are_refused(run: Run, tmp_path: Path) -> None:
    name = run.checkpoint(1)
    card = run.layout.export(name) / "README.md"
    card.write_text("# another card")
    _list_also(run, name, *digest_files(run.layout.export(name), [card]))
    with pytest.raises(PublishRefused, match=r"both be published as README\.md"):
        pack_checkpoint(run.recipe, run.layout, name, tmp_path)


def test_an_export_that_does_not_agree_with_its_receipt_is_refused(run: Run, tmp_path: Path) -> None:
    name = run.checkpoint(1)
    with (run.layout.export(name) / "model.safetensors").open("r+b") as file:
        file.seek(500)
        file.write(b"\xff")
    with pytest.raises(PublishRefused, match=r"model\.safetensors: its content does not match"):
        pack_checkpoint(run.recipe, run.layout, name, tmp_path)


def test_an_export_of_another_checkpoint_is_refused(run: Run, tmp_path: Path) -> None:
    name = run.checkpoint(1)
    run.forge_export(name, inputs={"checkpoint": "0" * 64})
    with pytest.raises(PublishRefused, match="was not made from its present checkpoint"):
        pack_checkpoint(run.recipe, run.layout, name, tmp_path)


def test_what_is_not_ready_is_refused(run: Run, tmp_path: Path) -> None:
    name = run.checkpoint(1)
    (run.layout.scores(name) / RECEIPT).unlink()
    with pytest.raises(PublishRefused, match="owed its scores"):
        pack_checkpoint(run.recipe, run.layout, name, tmp_path)
    with pytest.raises(PublishRefused, match="ckpt_002 cannot be published yet"):
        pack_checkpoint(run.recipe, run.layout, "ckpt_002", tmp_path)


def test_a_recipe_changed_under_a_run_is_refused(run: Run, tmp_path: Path) -> None:
    name = run.checkpoint(1)
    with pytest.raises(PublishRefused, match="was made by the recipe"):
        pack_checkpoint(run.recipe.model_copy(update={"seed": 7}), run.layout, name, tmp_path)


def test_packing_twice_gives_the_same_bytes(run: Run, tmp_path: Path) -> None:
    name = run.checkpoint(1)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = (pack_checkpoint(run.recipe, run.layout, name, tmp_path / folder) for folder in "ab")
    assert one.receipt_content == two.receipt_content
