"""A published checkpoint becomes a run again, whole or not at all, from every kind of target."""

from pathlib import Path

import pytest
from hub_server import HubServer
from laid_run import Run

from k2.checkpoint.select import verify
from k2.publish.failure import PublishFailed, PublishRefused
from k2.publish.restore import parse_source, restore
from k2.publish.target import FolderTarget, HubTarget, S3Target, Target, TargetError
from k2.publish.upload import publish_checkpoint
from k2.recipe.load import load_recipe, to_toml
from k2.recipe.place import Place
from k2.run.holdings import held_checkpoints
from k2.run.layout import RunLayout
from k2.run.ledger import RunRestored, read_facts
from k2.run.receipt import RECEIPT, read_receipt
from k2.run.records import accepted_records


def _restored(tmp_path: Path, text: str, checkpoint: str | None = None, name: str = "again") -> tuple[RunLayout, list[str]]:
    layout, said = RunLayout(tmp_path / "elsewhere" / name), list[str]()
    layout.root.parent.mkdir(exist_ok=True)
    restore(parse_source(text, checkpoint), layout, Place(), said.append)
    return layout, said


def _is_the_run(run: Run, layout: RunLayout, name: str, chunks: int) -> None:
    assert [held.name for held in held_checkpoints(load_recipe(str(layout.recipe)), layout)] == [name]
    assert verify(layout, name) == []
    assert read_receipt(layout.checkpoint(name)) == read_receipt(run.layout.checkpoint(name))
    facts = read_facts(layout.ledger)
    assert facts[:-1] == read_facts(run.layout.ledger)
    assert isinstance(facts[-1], RunRestored)
    records = accepted_records(layout, facts, "stage1")
    assert [record.step for record in records] == list(range(1, 8 * int(name[-3:]) + 1))
    for chunk in range(chunks):
        assert layout.chunk("stage1", chunk).read_bytes() == run.layout.chunk("stage1", chunk).read_bytes()
    assert (layout.all_chunks / RECEIPT).is_file() == (chunks == 3)


def test_from_a_folder_with_every_chunk(run: Run, tmp_path: Path) -> None:
    target = FolderTarget(tmp_path / "published")
    for number in (1, 2, 3):
        publish_checkpoint(run.recipe, run.layout, run.checkpoint(number), [target])
    layout, _ = _restored(tmp_path, f"{target}/ckpt_002")
    _is_the_run(run, layout, "ckpt_002", chunks=3)
    newest, _ = _restored(tmp_path, str(target), name="newest")
    _is_the_run(run, newest, "ckpt_003", chunks=3)


def test_from_the_hub(run: Run, hub: HubServer, tmp_path: Path) -> None:
    _from(run, HubTarget("k2-team", "mini"), tmp_path)


def test_from_s3(run: Run, bucket: S3Target, tmp_path: Path) -> None:
    _from(run, bucket, tmp_path)


def _from(run: Run, target: Target, tmp_path: Path) -> None:
    for number in (1, 2):
        publish_checkpoint(run.recipe, run.layout, run.checkpoint(number), [target])
    layout, said = _restored(tmp_path, f"{target}/ckpt_002")
    _is_the_run(run, layout, "ckpt_002", chunks=2)
    assert "1 of 3 chunks are not published there" in said[-1]


def test_every_third_checkpoint_brings_three_chunks(run: Run, tmp_path: Path) -> None:
    recipe = run.recipe.model_copy(update={"publishing": run.recipe.publishing.model_copy(update={"every": {"stage1": 3}})})
    run = Run(tmp_path / "sparse", recipe=recipe)
    for number in (1, 2, 3):
        run.checkpoint(number)
    publish_checkpoint(recipe, run.layout, "ckpt_003", [FolderTarget(tmp_path / "published")])
    data = tmp_path / "published" / "ckpt_003" / "data" / "stage1"
    assert sorted(path.name for path in data.glob("*.bin")) == ["chunk_000.bin", "chunk_001.bin", "chunk_002.bin"]


def test_what_was_changed_is_refused_and_nothing_is_left(run: Run, tmp_path: Path) -> None:
    target = FolderTarget(tmp_path / "published")
    publish_checkpoint(run.recipe, run.layout, run.checkpoint(1), [target])
    state = target.path / "ckpt_001" / "training" / "state" / "rank_0.bin"
    state.write_bytes(b"!" + state.read_bytes()[1:])
    with pytest.raises(PublishFailed, match=r"training/state/rank_0\.bin is not what its receipt says"):
        _restored(tmp_path, str(target))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_without_training_state_nothing_can_go_on(run: Run, tmp_path: Path) -> None:
    recipe = run.recipe.model_copy(update={"publishing": run.recipe.publishing.model_copy(update={"state": False})})
    run = Run(tmp_path / "light", recipe=recipe)
    publish_checkpoint(recipe, run.layout, run.checkpoint(1), [FolderTarget(tmp_path / "published")])
    with pytest.raises(PublishRefused, match="without its training state"):
        _restored(tmp_path, f"file://{tmp_path / 'published'}")


def test_what_stands_is_not_overwritten_and_a_path_that_leads_out_is_refused(run: Run, tmp_path: Path) -> None:
    target = FolderTarget(tmp_path / "published")
    publish_checkpoint(run.recipe, run.layout, run.checkpoint(1), [target])
    with pytest.raises(PublishRefused, match="exists already"):
        restore(parse_source(str(target)), run.layout, Place(), print)
    receipt = target.path / "ckpt_001" / RECEIPT
    receipt.write_text(receipt.read_text().replace("training/state/rank_0.bin", "training/../../../../leak"))
    with pytest.raises(PublishRefused, match="is no name to publish"):
        _restored(tmp_path, str(target))
    assert not (tmp_path / "leak").exists()


def test_where_nothing_is_published_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PublishRefused, match="holds no published checkpoint"):
        _restored(tmp_path, f"file://{tmp_path / 'empty'}")
    with pytest.raises(PublishFailed, match="holds no published ckpt_007"):
        _restored(tmp_path, f"file://{tmp_path / 'empty'}/ckpt_007")
    with pytest.raises(TargetError, match="leave one of them out"):
        parse_source("s3://bucket/prefix/ckpt_001", "ckpt_002")


def test_another_recipe_under_the_checkpoint_is_refused(run: Run, tmp_path: Path) -> None:
    run.layout.recipe.write_text(to_toml(run.recipe.model_copy(update={"seed": 7})))
    publish_checkpoint(run.recipe, run.layout, run.checkpoint(1), [FolderTarget(tmp_path / "published")])
    with pytest.raises(PublishRefused, match="use the version of k2 that published it"):
        _restored(tmp_path, f"file://{tmp_path / 'published'}")
