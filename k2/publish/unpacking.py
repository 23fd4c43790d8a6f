"""Taking published checkpoints off a shelf: their receipts, and single files or sealed folders of them, every digest compared.

What restoring a run and borrowing a checkpoint for scoring have in common.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from k2.publish.accompany import HISTORY, RECEIPTS
from k2.publish.failure import PublishRefused
from k2.publish.shelf import Shelf, bring, receipt_of
from k2.recipe.load import digest, load_recipe
from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout
from k2.run.receipt import RECEIPT, BrokenOutput, FileDigest, Receipt, check_files, read_receipt

CHECKPOINT = re.compile(r"ckpt_\d{3,}")


class Unpacking:
    """From an open shelf into a folder laid out as a run. `files` and `bytes` count what came."""

    def __init__(self, shelf: Shelf, target: str, layout: RunLayout, say: Callable[[str], None]) -> None:
        self.shelf, self.target, self.layout, self.say = shelf, target, layout, say
        self.files = self.bytes = 0

    def checkpoints(self) -> Iterator[Receipt]:
        """The receipts of all published checkpoints there."""
        names = [name for name in self.shelf.names() if CHECKPOINT.fullmatch(name) and self.shelf.read(name) is not None]
        return (receipt_of(self.shelf, name, self.target) for name in names)

    def newest(self) -> Receipt:
        """The checkpoint that saw the most tokens."""
        newest = max(self.checkpoints(), key=lambda receipt: int(receipt.facts["tokens"]), default=None)
        if newest is None:
            raise PublishRefused(f"{self.target} holds no published checkpoint; name the folder, prefix or repository that holds ckpt_NNN")
        return newest

    def recipe(self, published: Receipt) -> Recipe:
        """The recipe that the checkpoint was trained by, brought."""
        self.bring(published, "recipe.toml", self.layout.recipe)
        recipe = load_recipe(str(self.layout.recipe))
        if digest(recipe) != published.recipe:
            raise PublishRefused(
                f"the recipe published with {published.name} has the digest {digest(recipe)[:12]}, the checkpoint was trained with "
                f"{published.recipe[:12]}: use the version of k2 that published it ({published.made_by})"
            )
        return recipe

    def history(self, published: Receipt) -> None:
        """The ledger and the records up to the checkpoint."""
        for file in below(published, f"{HISTORY}/"):
            self.bring(published, file.path, self.layout.root / file.path.removeprefix(f"{HISTORY}/"))

    def sealed(self, published: Receipt, kind: str, folder: Path) -> None:
        """A folder with its receipt, where it was published."""
        for file in below(published, f"{kind}/"):
            self.bring(published, file.path, folder / file.path.removeprefix(f"{kind}/"))
        if any(file.path == f"{RECEIPTS}/{kind}.json" for file in published.files):
            self.bring(published, f"{RECEIPTS}/{kind}.json", folder / RECEIPT)
            whole(folder)

    def bring(self, parcel: Receipt, path: str, to: Path) -> None:
        """One file of a parcel, where it is not there yet. `PublishRefused` when it was not published."""
        file = next((file for file in parcel.files if file.path == path), None)
        if file is None:
            raise PublishRefused(f"{parcel.name} was published without {path}, which is needed; publish it with this version of k2")
        if to.exists():
            return
        bring(self.shelf, parcel.name, file, to)
        self.files, self.bytes = self.files + 1, self.bytes + file.bytes


def below(parcel: Receipt, prefix: str) -> Iterator[FileDigest]:
    """The parcel's files whose path begins so."""
    return (file for file in parcel.files if file.path.startswith(prefix))


def whole(folder: Path) -> Receipt:
    """The folder's receipt, its files agreeing with it."""
    receipt = read_receipt(folder)
    if wrong := check_files(folder, receipt):
        raise BrokenOutput(f"{receipt.kind} {receipt.name} does not agree with its receipt: {'; '.join(wrong[:3])}; publish it again")
    return receipt
