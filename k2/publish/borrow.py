"""Borrowing published checkpoints to score them, with no training state: recipe, tokenizer, suite, and one model's weights at a time.

Enters a target. Leaves a folder laid out as a run, in which an evaluator works as in any other; its `scores/` hold what was published
with the checkpoints, its `exports/` a model only while it is borrowed. Everything is compared with the receipts at the target.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from k2.publish.accompany import HISTORY, RECEIPTS, SUITE, TOKENIZER
from k2.publish.failure import PublishRefused
from k2.publish.parcel import checked_path
from k2.publish.shelf import browse
from k2.publish.target import Target
from k2.publish.unpacking import Unpacking
from k2.recipe.load import to_toml
from k2.recipe.place import Place
from k2.run.durable import durable_folder, remove_folder, write_durably
from k2.run.layout import RunLayout
from k2.run.receipt import RECEIPT, Receipt, find_receipt, read_receipt

FOLDER = ".published"  # beside the runs, and none of them: nothing is trained there


def borrowing_layout(runs_dir: Path, target: Target) -> RunLayout:
    """Where the target's checkpoints are scored."""
    return RunLayout(runs_dir / FOLDER / re.sub(r"[^A-Za-z0-9.-]+", "_", str(target)))


class Library:
    """The checkpoints of one target."""

    def __init__(self, unpacking: Unpacking) -> None:
        self._unpacking, self._layout = unpacking, unpacking.layout

    @classmethod
    @contextmanager
    def at(cls, target: Target, layout: RunLayout, say: Callable[[str], None]) -> Iterator[Self]:
        """The library of a target. `PublishFailed` with the fix when it cannot be reached."""
        with browse(target) as shelf:
            yield cls(Unpacking(shelf, str(target), layout, say))

    def furnish(self, place: Place) -> None:
        """Bring what all checkpoints share."""
        newest = self._unpacking.newest()
        self._layout.root.mkdir(parents=True, exist_ok=True)
        recipe = self._unpacking.recipe(newest)
        self._unpacking.bring(newest, f"{HISTORY}/ledger.jsonl", self._layout.ledger)
        self._unpacking.sealed(newest, TOKENIZER, self._layout.tokenizer)
        self._unpacking.sealed(newest, SUITE, self._layout.suite(recipe.evaluation.suite))
        write_durably(self._layout.place, to_toml(place).encode())

    def checkpoints(self, chosen: tuple[str, ...] = ()) -> list[Receipt]:
        """What is published of the folder's recipe (the chosen ones, or all), by tokens; with its receipts and published scores at hand."""
        published = sorted(self._unpacking.checkpoints(), key=lambda receipt: int(receipt.facts["tokens"]))
        if unknown := sorted(set(chosen) - {receipt.name for receipt in published}):
            raise PublishRefused(f"{self._unpacking.target} holds no published {', '.join(unknown)}")
        recipe = max(published, key=lambda receipt: int(receipt.facts["tokens"])).recipe
        wanted = [receipt for receipt in published if receipt.recipe == recipe and (not chosen or receipt.name in chosen)]
        for receipt in wanted:
            self._note(receipt)
        return wanted

    def suites_published_with(self, published: Receipt) -> frozenset[str]:
        """The suites whose scores came with the checkpoint."""
        scores = find_receipt(self._layout.scores(published.name))
        return frozenset() if scores is None else frozenset(scores.facts["suites"])

    @contextmanager
    def borrowed(self, published: Receipt) -> Iterator[None]:
        """Its export lies in the folder while this lasts."""
        folder = self._layout.export(published.name)
        _remove(folder)  # where one who borrowed it was killed
        with durable_folder(folder) as beside:
            self._unpacking.bring(published, f"{RECEIPTS}/export.json", beside / RECEIPT)
            for file in read_receipt(beside).files:
                self._unpacking.bring(published, checked_path(file.path), beside / file.path)
        try:
            yield
        finally:
            _remove(folder)

    def _note(self, published: Receipt) -> None:
        """The receipts of the checkpoint and of its published scores; another one's of that name go."""
        checkpoint, scores = self._layout.checkpoint(published.name), self._layout.scores(published.name)
        if (noted := find_receipt(checkpoint)) is not None and noted.digest != published.inputs["checkpoint"]:
            _remove(checkpoint)
            _remove(scores)
        self._unpacking.bring(published, f"{RECEIPTS}/checkpoint.json", checkpoint / RECEIPT)
        if "scores" in published.inputs:
            self._unpacking.bring(published, f"{RECEIPTS}/scores.json", scores / RECEIPT)
        read_receipt(checkpoint)


def _remove(folder: Path) -> None:
    if folder.exists():
        remove_folder(folder)
