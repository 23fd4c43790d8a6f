"""Publishing into a folder: whole or not at all, again for nothing, and never over something else."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from laid_run import Run

from k2.checkpoint.select import set_bad_aside
from k2.publish.failure import PublishFailed, PublishRefused
from k2.publish.folder import FolderStore
from k2.publish.release import ReleaseIndex, publish_release
from k2.publish.target import FolderTarget
from k2.publish.upload import inspect_checkpoint, publish_checkpoint
from k2.run.holdings import held_checkpoints
from k2.run.receipt import RECEIPT, check_files, read_receipt


@pytest.fixture
def folder(tmp_path: Path) -> FolderTarget:
    return FolderTarget(tmp_path / "published" / "mini-1")


def _snapshot(root: Path) -> dict[str, tuple[int, int]]:
    return {str(p.relative_to(root)): (p.stat().st_mtime_ns, p.stat().st_ino) for p in sorted(root.rglob("*")) if p.is_file()}


def test_a_checkpoint_lies_there_with_everything_that_proves_it(run: Run, folder: FolderTarget) -> None:
    name = run.checkpoint(1)
    receipt = publish_checkpoint(run.recipe, run.layout, name, [folder])
    assert set(_snapshot(folder.path)) == {
        f"{name}/{path}"
        for path in (
            *("README.md", "config.json", "model.safetensors", "tokenizer.model", "receipt.json", "recipe.toml"),
            *(f"receipts/{kind}.json" for kind in ("checkpoint", "chunks", "export", "scores")),
            "scores/samples_k2_choice.jsonl",
            "training/state/rank_0.bin",
            *(f"data/{file}" for file in ("README.md", *(f"stage1/chunk_000{kind}" for kind in (".bin", ".index.npy", ".json")))),
            *("history/ledger.jsonl", "history/metrics/stage1/attempt_01.jsonl"),
        )
    }
    published = read_receipt(folder.path / name)
    assert check_files(folder.path / name, published) == []
    assert published.inputs["checkpoint"] == read_receipt(run.layout.checkpoint(name)).digest
    assert receipt == read_receipt(run.layout.published(name))
    assert receipt.facts["targets"] == [
        {"target": str(folder), "files": 17, "bytes": sum(f.bytes for f in published.files), "verified": True}
    ]
    assert set(receipt.inputs) == {"export", "checkpoint", "scores"}


def test_the_second_time_nothing_is_written(run: Run, folder: FolderTarget) -> None:
    name = run.checkpoint(1)
    first = publish_checkpoint(run.recipe, run.layout, name, [folder])
    before = _snapshot(folder.path)
    assert publish_checkpoint(run.recipe, run.layout, name, [folder]) == first
    assert _snapshot(folder.path) == before


def test_a_second_target_joins_the_receipt(run: Run, folder: FolderTarget, tmp_path: Path) -> None:
    name, other = run.checkpoint(1), FolderTarget(tmp_path / "elsewhere")
    publish_checkpoint(run.recipe, run.layout, name, [folder])
    receipt = publish_checkpoint(run.recipe, run.layout, name, [other])
    assert [claim["target"] for claim in receipt.facts["targets"]] == [str(folder), str(other)]


def test_damage_is_found_and_mended(run: Run, folder: FolderTarget) -> None:
    name = run.checkpoint(1)
    publish_checkpoint(run.recipe, run.layout, name, [folder])
    weights = folder.path / name / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (folder.path / name / "config.json").unlink()
    assert inspect_checkpoint(run.recipe, run.layout, name, [folder]) == [
        f"{folder}/{name}/config.json: is missing",
        f"{folder}/{name}/model.safetensors: has other content",
    ]
    publish_checkpoint(run.recipe, run.layout, name, [folder])
    assert weights.read_bytes() == content
    assert inspect_checkpoint(run.recipe, run.layout, name, [folder]) == []


def test_a_publisher_with_other_bytes_is_refused(run: Run, folder: FolderTarget, tmp_path: Path) -> None:
    name = run.checkpoint(1)
    publish_checkpoint(run.recipe, run.layout, name, [folder])
    before = _snapshot(folder.path)
    other = Run(tmp_path / "other")
    other.checkpoint(1, seed=5)
    with pytest.raises(PublishRefused, match="already holds another ckpt_001"):
        publish_checkpoint(other.recipe, other.layout, name, [folder])
    assert _snapshot(folder.path) == before
    assert not other.layout.published(name).exists()
    assert "already holds another" in inspect_checkpoint(other.recipe, other.layout, name, [folder])[0]


def test_of_racing_creators_one_wins(folder: FolderTarget) -> None:
    store, start = FolderStore(folder.path), threading.Barrier(8)
    won: list[int] = []

    def create(number: int) -> None:
        start.wait()
        if store.create("ckpt_001/receipt.json", str(number).encode()):
            won.append(number)

    racers = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert len(won) == 1
    assert store.read("ckpt_001/receipt.json") == str(won[0]).encode()
    assert [path.name for path in (folder.path / "ckpt_001").iterdir()] == [RECEIPT]


def test_one_target_failing_leaves_no_receipt_and_the_other_served(run: Run, folder: FolderTarget, tmp_path: Path) -> None:
    name = run.checkpoint(1)
    blocked = tmp_path / "a-file"
    blocked.write_text("in the way")
    with pytest.raises(PublishFailed, match="a-file") as caught:
        publish_checkpoint(run.recipe, run.layout, name, [FolderTarget(blocked), folder])
    assert not isinstance(caught.value, PublishRefused)
    assert not run.layout.published(name).exists()
    assert inspect_checkpoint(run.recipe, run.layout, name, [folder]) == []


def test_a_broken_delivery_is_finished_by_the_next(run: Run, folder: FolderTarget) -> None:
    name = run.checkpoint(1)
    publish_checkpoint(run.recipe, run.layout, name, [folder])
    (folder.path / name / RECEIPT).unlink()
    (folder.path / name / "model.safetensors").write_bytes(b"half")
    before = _snapshot(folder.path)
    publish_checkpoint(run.recipe, run.layout, name, [folder])
    after = _snapshot(folder.path)
    assert inspect_checkpoint(run.recipe, run.layout, name, [folder]) == []
    assert {path for path in after if after[path] != before.get(path)} == {f"{name}/{RECEIPT}", f"{name}/model.safetensors"}


def test_what_an_incident_abandoned_gives_its_name_back(run: Run, folder: FolderTarget) -> None:
    name = run.checkpoint(1)
    publish_checkpoint(run.recipe, run.layout, name, [folder])
    first = read_receipt(folder.path / name)
    run.abandon(name)
    run.checkpoint(1, seed=9)
    publish_checkpoint(run.recipe, run.layout, name, [folder])
    assert check_files(folder.path / name, read_receipt(folder.path / name)) == []
    assert read_receipt(folder.path / name).digest != first.digest
    assert read_receipt(folder.path / "retracted" / f"{name}-{first.digest[:12]}.json") == first


def flip_a_bit(checkpoint: Path) -> None:
    (checkpoint / "weights.bin").write_bytes(b"weights?")


def tear_the_receipt(checkpoint: Path) -> None:
    (checkpoint / RECEIPT).write_bytes((checkpoint / RECEIPT).read_bytes()[:100])


@pytest.mark.parametrize("damage", [flip_a_bit, tear_the_receipt])
def test_what_was_quarantined_gives_its_name_back(run: Run, folder: FolderTarget, damage: Callable[[Path], None]) -> None:
    name = run.checkpoint(1)
    publish_checkpoint(run.recipe, run.layout, name, [folder])
    first = read_receipt(folder.path / name)
    damage(run.layout.checkpoint(name))
    assert [bad.name for bad in set_bad_aside(run.layout, name)] == [name]
    run.checkpoint(1, seed=9)  # trained again
    [held] = held_checkpoints(run.recipe, run.layout)
    assert "published" not in held.settled
    publish_checkpoint(run.recipe, run.layout, name, [folder])
    assert inspect_checkpoint(run.recipe, run.layout, name, [folder]) == []
    assert read_receipt(folder.path / name).digest != first.digest
    assert read_receipt(folder.path / "retracted" / f"{name}-{first.digest[:12]}.json") == first


def test_a_checkpoint_under_the_receipt_of_another_frees_not_the_others_name(run: Run, folder: FolderTarget) -> None:
    good, bad = run.checkpoint(1), run.checkpoint(2)
    publish_checkpoint(run.recipe, run.layout, good, [folder])
    (run.layout.checkpoint(bad) / RECEIPT).write_bytes((run.layout.checkpoint(good) / RECEIPT).read_bytes())
    set_bad_aside(run.layout, bad)
    run.forge_export(good, facts={"max_abs_logit_difference": 9.0, "parameters": 1, "stage": "stage1", "context": 32})
    with pytest.raises(PublishRefused, match="already holds another ckpt_001"):
        publish_checkpoint(run.recipe, run.layout, good, [folder])


def test_the_cards_own_commands_verify_what_was_published(run: Run, folder: FolderTarget) -> None:
    name = run.checkpoint(1)
    publish_checkpoint(run.recipe, run.layout, name, [folder])
    where = folder.path / name
    check = re.findall(r"```python\n(.*?)```", (where / "README.md").read_text(), re.DOTALL)[1]
    good = subprocess.run([sys.executable, "-c", check], cwd=where, capture_output=True, text=True, check=True)
    assert "every file is what its receipt says" in good.stdout
    (where / "config.json").write_text("{}")
    bad = subprocess.run([sys.executable, "-c", check], cwd=where, capture_output=True, text=True, check=False)
    assert bad.returncode != 0
    assert "config.json" in bad.stderr


def test_a_full_disk_is_a_failure_that_names_the_place(run: Run, folder: FolderTarget) -> None:
    name = run.checkpoint(1)
    folder.path.mkdir(parents=True)
    limit = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from pathlib import Path; from k2.recipe.load import load_recipe; from k2.run.layout import RunLayout\n"
        "from k2.publish.target import FolderTarget; from k2.publish.upload import publish_checkpoint\n"
        "layout = RunLayout(Path(sys.argv[1]))\n"
        "publish_checkpoint(load_recipe(str(layout.recipe)), layout, sys.argv[2], [FolderTarget(Path(sys.argv[3]))])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", limit, str(run.layout.root), name, str(folder.path)], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert f"PublishFailed: {name} could not be written to {folder}" in done.stderr
    assert not (folder.path / name / RECEIPT).exists()
    assert not list(folder.path.rglob(".tmp-*"))
    publish_checkpoint(run.recipe, run.layout, name, [folder])


def test_the_release_indexes_what_was_published(run: Run, folder: FolderTarget) -> None:
    for number in (1, 2):
        publish_checkpoint(run.recipe, run.layout, run.checkpoint(number), [folder])
    run.layout.report.mkdir(parents=True)
    run.layout.published_page.write_text("<!doctype html>")
    receipt = publish_release(run.recipe, run.layout, [folder])
    assert receipt == read_receipt(run.layout.release)
    lying = folder.path / "release"
    assert check_files(lying, read_receipt(lying)) == []
    assert {p.name for p in lying.iterdir()} == {"release.json", "README.md", "recipe.toml", "ledger.jsonl", "index.html", RECEIPT}
    index = ReleaseIndex.model_validate_json((lying / "release.json").read_bytes())
    assert [c.name for c in index.checkpoints] == ["ckpt_001", "ckpt_002"]
    assert index.checkpoints[1].digests["checkpoint"] == read_receipt(run.layout.checkpoint("ckpt_002")).digest
    assert index.checkpoints[1].targets == (str(folder),)


def test_a_release_tried_again_sends_the_same_ledger(run: Run, folder: FolderTarget, tmp_path: Path) -> None:
    publish_checkpoint(run.recipe, run.layout, run.checkpoint(1), [folder])
    blocked = tmp_path / "a-file"
    blocked.write_text("in the way")
    with pytest.raises(PublishFailed):
        publish_release(run.recipe, run.layout, [folder, FolderTarget(blocked)])
    with run.layout.ledger.open("a") as ledger:
        ledger.write(json.dumps({"fact": "of the failure"}) + "\n")
    blocked.unlink()
    receipt = publish_release(run.recipe, run.layout, [folder, FolderTarget(blocked)])
    assert [claim["target"] for claim in receipt.facts["targets"]] == [str(folder), f"file://{blocked}"]
