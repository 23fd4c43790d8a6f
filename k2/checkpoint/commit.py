"""The commit of a checkpoint by all ranks, through the disk alone: written beside, digested, receipt last, synced, renamed.

Every rank writes and syncs its share in a hidden folder and hands in a note of it; rank 0 waits for all notes, writes the
receipt and renames the folder. Only the rename makes the checkpoint exist: a death or a full disk at any point before leaves a
hidden folder that nobody reads. No rank talks to another, so all of it can go on beside the training.
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from k2.checkpoint.shard import STATE, Kind
from k2.run.durable import UNFINISHED, commit_folder
from k2.run.injection import strike
from k2.run.receipt import RECEIPT, FileDigest, Receipt, digest_files, write_receipt

RECIPE = "recipe.toml"  # the recipe that it was trained by, so that a checkpoint explains itself
_NOTE = ".note"
_LOOK_SECONDS = 0.01
FORMAT = 2  # of a checkpoint's folder: shards by `shard`, facts by `facts_of` and the loop


class Measured(BaseModel):
    """What one rank measured of its numbers while they were at hand."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    updates: int  # of the optimizer
    squares: dict[Kind, float]  # the sum of squares over the rank's own numbers
    not_finite: int


class Share(BaseModel):
    """What one rank wrote: its synced file, and what is in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: FileDigest
    measured: Measured


class GivenUp(RuntimeError):
    """The commit was called off: another rank could not write its share."""


class Superseded(OSError):
    """A newer attempt has begun: this one may commit nothing any more."""


@dataclass(frozen=True)
class Commit:
    """One checkpoint on its way. `attempt` is the fencing epoch: two attempts never share a hidden folder."""

    target: Path
    attempt: int
    num_ranks: int

    @property
    def beside(self) -> Path:
        return self.target.parent / f"{UNFINISHED}{self.target.name}-{self.attempt:04d}"

    def open(self) -> Path:
        """The folder for the shares. Any rank may be the first."""
        state = self.beside / STATE
        state.mkdir(parents=True, exist_ok=True)
        return state

    def hand_in(self, rank: int, share: Share) -> None:
        """Note that this rank's share is written and synced."""
        note = self._note(rank)
        unfinished = note.with_suffix(".part")
        unfinished.write_text(share.model_dump_json())
        os.replace(unfinished, note)

    def collect(self, given_up: Callable[[], bool]) -> list[Share]:
        """Wait for every rank's note. `GivenUp` when nobody waits for the checkpoint any more.

        The folder is listed: that a file is missing NFS remembers for up to a minute (acdirmax), a listing it asks for.
        """
        notes = {self._note(rank).name for rank in range(self.num_ranks)}
        while not notes <= set(os.listdir(self.beside / STATE)):
            if given_up():
                raise GivenUp(self.target.name)
            time.sleep(_LOOK_SECONDS)
        return [Share.model_validate_json(self._note(rank).read_bytes()) for rank in range(self.num_ranks)]

    def seal(self, receipt: Receipt, shares: Sequence[Share], texts: Mapping[str, str], may_commit: Callable[[], bool]) -> Receipt:
        """Make it exist: the small files, the receipt with all files, synced; the rename. `OSError` when it cannot be."""
        strike("ckpt.before_manifest", receipt.facts.get("step"))
        for rank in range(self.num_ranks):
            self._note(rank).unlink()
        for name, text in texts.items():
            (self.beside / name).write_text(text, "utf-8")
        files = (*digest_files(self.beside, [self.beside / name for name in texts]), *(share.file for share in shares))
        whole = receipt.model_copy(update={"files": files, "facts": receipt.facts | facts_of(shares)})
        whole = whole.model_copy(update={"sealed": whole.digest})
        write_receipt(self.beside / RECEIPT, whole)
        strike("ckpt.before_rename", receipt.facts.get("step"))
        if not may_commit():
            raise Superseded(f"attempt {self.attempt} was superseded by a newer one")
        commit_folder(self.beside, self.target)
        strike("ckpt.after_rename", receipt.facts.get("step"))
        return whole

    def forget(self) -> None:
        """Leave nothing of it."""
        shutil.rmtree(self.beside, ignore_errors=True)

    def _note(self, rank: int) -> Path:
        return self.beside / STATE / f"{_NOTE}-{rank:05d}"


def facts_of(shares: Sequence[Share]) -> dict[str, object]:
    """What the ranks measured, as facts of the whole: a resume holds the numbers that it has loaded against them."""
    measured = [share.measured for share in shares]
    updates = {one.updates for one in measured}
    assert len(updates) == 1, f"ranks disagree on the optimizer's updates: {sorted(updates)}"
    kinds = measured[0].squares
    return {
        "format": FORMAT,
        "updates": updates.pop(),
        "squares": {kind: sum(one.squares[kind] for one in measured) for kind in kinds},
        "not_finite": sum(one.not_finite for one in measured),
    }
