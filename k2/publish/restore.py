"""Restoring: a published checkpoint into a new run directory, so that training goes on from it.

Enters a target; leaves a run whose ledger and records are those of the published one up to the checkpoint, with one
fact more that says where it came from. Every file is compared with the receipt that was published over it. Chunks
that are published beside any checkpoint of the target come too; if some are missing the data is prepared again.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from k2.publish.accompany import DATA, HISTORY, RECEIPTS, STATE, SUITE, TOKENIZER
from k2.publish.failure import PublishRefused
from k2.publish.shelf import Shelf, bring, browse, receipt_of
from k2.publish.target import FolderTarget, Target, TargetError, parse_target
from k2.recipe.load import digest, load_recipe, to_toml
from k2.recipe.place import Place
from k2.recipe.schema import Recipe
from k2.run.durable import open_beside, sync_folder, write_durably
from k2.run.layout import RunLayout
from k2.run.ledger import RunRestored, append_facts
from k2.run.receipt import RECEIPT, BrokenOutput, FileDigest, Receipt, check_files, find_receipt, read_receipt

_CHECKPOINT = re.compile(r"ckpt_\d{3,}")


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
    if _CHECKPOINT.fullmatch(last) and not head.endswith("/"):
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
            restored = _Restoring(shelf, source, RunLayout(beside), say).run(layout.name)
        write_durably(beside / layout.place.name, to_toml(place).encode())
        beside.rename(layout.root)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    sync_folder(layout.root.parent)
    return restored


class _Restoring:
    """One restoration, from an open shelf into a hidden folder."""

    def __init__(self, shelf: Shelf, source: Source, layout: RunLayout, say: Callable[[str], None]) -> None:
        self._shelf, self._source, self._layout, self._say = shelf, source, layout, say
        self._files = self._bytes = 0

    def run(self, run: str) -> Restored:
        published = self._choose()
        self._say(
            f"{published.name} of {published.facts.get('run', 'a run')}: stage {published.facts['stage']}, step {published.facts['step']}"
        )
        self._history(published)
        recipe = self._recipe(published)
        checkpoint = self._checkpoint(published)
        self._sealed(published, TOKENIZER, self._layout.tokenizer)
        self._sealed(published, SUITE, self._layout.suite(recipe.evaluation.suite))
        missing = self._chunks(published)
        append_facts(self._layout.ledger, self._origin(published, checkpoint))
        return Restored(run, published.name, self._files, self._bytes, True, missing)

    def _origin(self, published: Receipt, checkpoint: Receipt) -> RunRestored:
        source = str(self._source.target)
        return RunRestored(source=source, checkpoint=published.name, digest=checkpoint.digest, published=published.digest)

    def _choose(self) -> Receipt:
        """The checkpoint that was asked for, or the one that saw the most tokens."""
        target = str(self._source.target)
        if self._source.checkpoint is not None:
            return receipt_of(self._shelf, self._source.checkpoint, target)
        newest = max(self._parcels(), key=lambda receipt: int(receipt.facts["tokens"]), default=None)
        if newest is None:
            raise PublishRefused(f"{target} holds no published checkpoint; name the folder, prefix or repository that holds ckpt_NNN")
        return newest

    def _recipe(self, published: Receipt) -> Recipe:
        self._bring(published, "recipe.toml", self._layout.recipe)
        recipe = load_recipe(str(self._layout.recipe))
        if digest(recipe) != published.recipe:
            raise PublishRefused(
                f"the recipe published with {published.name} has the digest {digest(recipe)[:12]}, the checkpoint was trained with "
                f"{published.recipe[:12]}: restore with the version of k2 that published it ({published.made_by})"
            )
        return recipe

    def _checkpoint(self, published: Receipt) -> Receipt:
        """The training state, in its place and verified against its own receipt."""
        files = list(_below(published, f"{STATE}/"))
        if not files:
            raise PublishRefused(
                f"{published.name} was published without its training state (publishing.state = false), so nothing can go on from it; "
                "start a run from its weights with `k2 import`"
            )
        folder = self._layout.checkpoint(published.name)
        for file in files:
            self._bring(published, file.path, folder / file.path.removeprefix(f"{STATE}/"))
        self._bring(published, f"{RECEIPTS}/checkpoint.json", folder / RECEIPT)
        return _whole(folder)

    def _history(self, published: Receipt) -> None:
        for file in _below(published, f"{HISTORY}/"):
            self._bring(published, file.path, self._layout.root / file.path.removeprefix(f"{HISTORY}/"))

    def _sealed(self, published: Receipt, kind: str, folder: Path) -> None:
        """A folder with its receipt, where it was published."""
        for file in _below(published, f"{kind}/"):
            self._bring(published, file.path, folder / file.path.removeprefix(f"{kind}/"))
        if any(file.path == f"{RECEIPTS}/{kind}.json" for file in published.files):
            self._bring(published, f"{RECEIPTS}/{kind}.json", folder / RECEIPT)
            _whole(folder)

    def _chunks(self, published: Receipt) -> tuple[str, ...]:
        """The chunks of every parcel on the shelf; the receipt over all of them only where all are here."""
        beside = self._layout.root / "chunks.json"
        self._bring(published, f"{RECEIPTS}/chunks.json", beside)
        over_all = read_receipt(beside)
        wanted = {name: made for name, made in over_all.inputs.items() if "/" in name}
        for parcel in self._parcels():
            for file in _below(parcel, f"{DATA}/") if parcel.recipe == published.recipe else ():
                if "/" in file.path.removeprefix(f"{DATA}/"):
                    self._bring(parcel, file.path, self._layout.all_chunks / file.path.removeprefix(f"{DATA}/"))
        missing = tuple(name for name, made in wanted.items() if not self._is_here(name, made))
        if missing:
            beside.unlink()
            self._say(f"{len(missing)} of {len(wanted)} chunks are not published there: they are prepared again, to the same bytes")
        else:
            beside.rename(self._layout.all_chunks / RECEIPT)
        return missing

    def _parcels(self) -> Iterator[Receipt]:
        """The receipts of all published checkpoints there."""
        names = [name for name in self._shelf.names() if _CHECKPOINT.fullmatch(name) and self._shelf.read(name) is not None]
        return (receipt_of(self._shelf, name, str(self._source.target)) for name in names)

    def _is_here(self, name: str, made: str) -> bool:
        """Whether the chunk is the one that the receipt over all names. Another one is removed."""
        receipt = find_receipt(self._layout.all_chunks / f"{name}.json")
        if receipt is not None and receipt.digest == made:
            return not check_files((self._layout.all_chunks / name).parent, receipt)
        (self._layout.all_chunks / f"{name}.json").unlink(missing_ok=True)
        return False

    def _bring(self, parcel: Receipt, path: str, to: Path) -> None:
        file = next((file for file in parcel.files if file.path == path), None)
        if file is None:
            raise PublishRefused(
                f"{parcel.name} was published without {path}, so it cannot be restored; publish it with this version of k2"
            )
        if to.exists():
            return
        bring(self._shelf, parcel.name, file, to)
        self._files, self._bytes = self._files + 1, self._bytes + file.bytes


def _below(parcel: Receipt, prefix: str) -> Iterator[FileDigest]:
    return (file for file in parcel.files if file.path.startswith(prefix))


def _whole(folder: Path) -> Receipt:
    """The folder's receipt, its files agreeing with it."""
    receipt = read_receipt(folder)
    if wrong := check_files(folder, receipt):
        raise BrokenOutput(f"{receipt.kind} {receipt.name} does not agree with its receipt: {'; '.join(wrong[:3])}; publish it again")
    return receipt


def describe(restored: Restored, source: Source) -> str:
    """What a person is told."""
    place = source.target.path if isinstance(source.target, FolderTarget) else source.target
    return (
        f"{restored.checkpoint} from {place}: {restored.files} files, {restored.bytes / 1e6:,.1f} MB, every digest compared; "
        f"go on with `k2 resume {restored.run}`"
    )
