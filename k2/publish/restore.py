"""Restoring: a published checkpoint into a new run directory, so that training goes on from it.

Enters a target; leaves a run whose ledger and records are those of the published one up to the checkpoint, with one
fact more that says where it came from. Every file is compared with the receipt that was published over it. Chunks
that are published beside any checkpoint of the target come too; if some are missing the data is prepared again.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass

from k2.publish.accompany import DATA, RECEIPTS, STATE, SUITE, TOKENIZER
from k2.publish.failure import PublishRefused
from k2.publish.shelf import browse, receipt_of
from k2.publish.target import FolderTarget, Target, TargetError, parse_target
from k2.publish.unpacking import CHECKPOINT, Unpacking, below, whole
from k2.recipe.load import to_toml
from k2.recipe.place import Place
from k2.run.durable import open_beside, sync_folder, write_durably
from k2.run.layout import RunLayout
from k2.run.ledger import RunRestored, append_facts
from k2.run.receipt import RECEIPT, Receipt, check_files, find_receipt, read_receipt


@dataclass(frozen=True)
class Source:
    """Where a checkpoint is restored from. `checkpoint` None means the newest that is published there."""

    target: Target
    checkpoint: str | None


@dataclass(frozen=True)
class Restored:
    """What came, all of it verified. `missing_chunks` were not published at the target."""

    run: str
    checkpoint: str
    files: int
    bytes: int
    verified: bool
    missing_chunks: tuple[str, ...]


def parse_source(text: str, checkpoint: str | None = None) -> Source:
    """`TARGET` or `TARGET/ckpt_NNN`."""
    head, _, last = text.rstrip("/").rpartition("/")
    if CHECKPOINT.fullmatch(last) and not head.endswith("/"):
        if checkpoint not in (None, last):
            raise TargetError(f"{text} names {last}, --checkpoint names {checkpoint}: leave one of them out")
        return Source(parse_target(head), last)
    return Source(parse_target(text), checkpoint)


def restore(source: Source, layout: RunLayout, place: Place, say: Callable[[str], None]) -> Restored:
    """Make the run directory. It exists whole or not at all; `PublishFailed` when something there is not what it should be."""
    if layout.root.exists():
        raise PublishRefused(f"{layout.root} exists already; restore under a name that is free: nothing is overwritten")
    beside = open_beside(layout.root)
    try:
        with browse(source.target) as shelf:
            restored = _Restoring(Unpacking(shelf, str(source.target), RunLayout(beside), say), source).run(layout.name)
        write_durably(beside / layout.place.name, to_toml(place).encode())
        beside.rename(layout.root)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    sync_folder(layout.root.parent)
    return restored


class _Restoring:
    """One restoration, from an open shelf into a hidden folder."""

    def __init__(self, unpacking: Unpacking, source: Source) -> None:
        self._unpacking, self._source = unpacking, source
        self._layout, self._say = unpacking.layout, unpacking.say

    def run(self, run: str) -> Restored:
        published = self._choose()
        self._say(
            f"{published.name} of {published.facts.get('run', 'a run')}: stage {published.facts['stage']}, step {published.facts['step']}"
        )
        unpacking = self._unpacking
        unpacking.history(published)
        recipe = unpacking.recipe(published)
        checkpoint = self._checkpoint(published)
        unpacking.sealed(published, TOKENIZER, self._layout.tokenizer)
        unpacking.sealed(published, SUITE, self._layout.suite(recipe.evaluation.suite))
        missing = self._chunks(published)
        append_facts(self._layout.ledger, self._origin(published, checkpoint))
        return Restored(run, published.name, unpacking.files, unpacking.bytes, True, missing)

    def _origin(self, published: Receipt, checkpoint: Receipt) -> RunRestored:
        source = str(self._source.target)
        return RunRestored(source=source, checkpoint=published.name, digest=checkpoint.digest, published=published.digest)

    def _choose(self) -> Receipt:
        """The checkpoint that was asked for, or the one that saw the most tokens."""
        if self._source.checkpoint is None:
            return self._unpacking.newest()
        return receipt_of(self._unpacking.shelf, self._source.checkpoint, str(self._source.target))

    def _checkpoint(self, published: Receipt) -> Receipt:
        """The training state, in its place and verified against its own receipt."""
        files = list(below(published, f"{STATE}/"))
        if not files:
            raise PublishRefused(
                f"{published.name} was published without its training state (publishing.state = false), so nothing can go on from it; "
                "start a run from its weights with `k2 import`"
            )
        folder = self._layout.checkpoint(published.name)
        for file in files:
            self._unpacking.bring(published, file.path, folder / file.path.removeprefix(f"{STATE}/"))
        self._unpacking.bring(published, f"{RECEIPTS}/checkpoint.json", folder / RECEIPT)
        return whole(folder)

    def _chunks(self, published: Receipt) -> tuple[str, ...]:
        """The chunks of every parcel on the shelf; the receipt over all of them only where all are here."""
        beside = self._layout.root / "chunks.json"
        self._unpacking.bring(published, f"{RECEIPTS}/chunks.json", beside)
        over_all = read_receipt(beside)
        wanted = {name: made for name, made in over_all.inputs.items() if "/" in name}
        for parcel in self._unpacking.checkpoints():
            for file in below(parcel, f"{DATA}/") if parcel.recipe == published.recipe else ():
                if "/" in file.path.removeprefix(f"{DATA}/"):
                    self._unpacking.bring(parcel, file.path, self._layout.all_chunks / file.path.removeprefix(f"{DATA}/"))
        missing = tuple(name for name, made in wanted.items() if not self._is_here(name, made))
        if missing:
            beside.unlink()
            self._say(f"{len(missing)} of {len(wanted)} chunks are not published there: they are prepared again, to the same bytes")
        else:
            beside.rename(self._layout.all_chunks / RECEIPT)
        return missing

    def _is_here(self, name: str, made: str) -> bool:
        """Whether the chunk is the one that the receipt over all names. Another one is removed."""
        receipt = find_receipt(self._layout.all_chunks / f"{name}.json")
        if receipt is not None and receipt.digest == made:
            return not check_files((self._layout.all_chunks / name).parent, receipt)
        (self._layout.all_chunks / f"{name}.json").unlink(missing_ok=True)
        return False


def describe(restored: Restored, source: Source) -> str:
    """What a person is told."""
    place = source.target.path if isinstance(source.target, FolderTarget) else source.target
    return (
        f"{restored.checkpoint} from {place}: {restored.files} files, {restored.bytes / 1e6:,.1f} MB, every digest compared; "
        f"go on with `k2 resume {restored.run}`"
    )
