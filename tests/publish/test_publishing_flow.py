"""The deployment `publish`: what is ready is published and shown, what is not waits, and one that fails holds up no other."""

from pathlib import Path

import pytest
from laid_run import Run

from flows.publish import settle_publishing
from flows.run import existing_run
from k2.recipe.load import to_toml
from k2.recipe.place import Place
from k2.run.receipt import RECEIPT, Receipt, commit_receipt_only, find_receipt, now


@pytest.fixture
def published(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The target of the run's place."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    run.layout.place.write_text(to_toml(Place(publish_to=(f"file://{tmp_path}/published",), wandb_mode="disabled")))
    return tmp_path / "published"


def verify(run: Run, name: str) -> None:
    commit_receipt_only(run.layout.verified(name), Receipt(kind="verified", name=name, recipe="0", made_at=now()))


def test_what_is_ready_is_published_and_shown_and_the_rest_waits(run: Run, published: Path) -> None:
    for number in (1, 2):
        run.checkpoint(number)
    verify(run, "ckpt_001")
    said: list[str] = []
    with existing_run(run.layout, said.append) as held:
        assert settle_publishing(held) == ["ckpt_001"]
        assert settle_publishing(held) == []
    assert "ckpt_002 waits: it is not verified yet" in said
    assert (published / "ckpt_001" / RECEIPT).is_file() and (published / "report" / "ckpt_001.json").is_file()
    assert find_receipt(run.layout.shown("ckpt_001")) is not None
    assert not (published / "ckpt_002").exists()


def test_one_that_fails_is_told_and_holds_up_no_other(run: Run, published: Path) -> None:
    for number in (1, 2):
        verify(run, run.checkpoint(number))
    (run.layout.export("ckpt_001") / "stray").write_text("?")
    said: list[str] = []
    with existing_run(run.layout, said.append) as held, pytest.raises(RuntimeError, match="published 1 checkpoints, but not all: ckpt_001"):
        settle_publishing(held)
    assert (published / "ckpt_002" / RECEIPT).is_file()
    assert find_receipt(run.layout.shown("ckpt_001")) is None  # shown once it is published
