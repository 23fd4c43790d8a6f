"""The parcel: exactly the files that are published for one name, with their digests, and the receipt over them.

Enters: receipts of the run directory and what they list. Leaves: a `Parcel`. Nothing that a receipt does not list
is ever in it: a folder that holds more, a listed name that leads elsewhere, or a file that does not agree with its
digest is refused before anything is sent.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from k2.publish.failure import PublishRefused
from k2.run.receipt import RECEIPT, FileDigest, Receipt, check_files, digest_file

_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=@+-]*")  # no hidden file, no '..', no '\\': what every store takes and no secret is called


@dataclass(frozen=True)
class Item:
    """One file: `path` is its place in the published folder, `source` where it lies now."""

    path: str
    source: Path
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Parcel:
    """What is published under `name`. `receipt` is written last, once, and makes the rest exist.

    A parcel with a `folder` adds its items to what others brought there, and its receipt is `<name>.json`. `living` files lie in the
    folder too, and change with every parcel.
    """

    name: str
    items: tuple[Item, ...]
    receipt: Receipt
    abandoned: frozenset[str] = frozenset()  # digests of the checkpoints that were set aside
    folder: str | None = None
    living: tuple[Item, ...] = ()

    @property
    def receipt_path(self) -> str:
        """Where the receipt stands at a target: the files that it lists are named from its folder on."""
        return f"{self.name}/{RECEIPT}" if self.folder is None else f"{self.name}.json"

    def path_of(self, item: Item) -> str:
        """Where the item lies at a target."""
        return f"{self.folder or self.name}/{item.path}"

    @property
    def receipt_content(self) -> bytes:
        return self.receipt.model_dump_json(indent=1).encode() + b"\n"

    @property
    def total_bytes(self) -> int:
        return sum(item.bytes for item in self.items)


def item_from_file(path: str, source: Path) -> Item:
    """An item whose digest is that of the file as it is now."""
    return Item(checked_path(path), source, source.stat().st_size, digest_file(source))


def items_from_output(folder: Path, receipt: Receipt, prefix: str = "") -> list[Item]:
    """The files of a finished output, all of them checked against its receipt."""
    listed = {checked_path(file.path) for file in receipt.files}
    wrong = check_files(folder, receipt)
    if wrong:
        raise PublishRefused(f"{folder} is not what its receipt says: {'; '.join(wrong[:5])}. Remove the folder, so that it is made again")
    strays = sorted(_files_of(folder) - listed - {RECEIPT})
    if strays:
        raise PublishRefused(
            f"{folder} holds files that its receipt does not list: {', '.join(strays[:5])}. They are not published; remove them from it"
        )
    return [Item(prefix + file.path, folder / file.path, file.bytes, file.sha256) for file in receipt.files]


def digests_of(items: Iterable[Item]) -> tuple[FileDigest, ...]:
    """The items as a receipt lists them, by name. `PublishRefused` when two want the same place."""
    ordered = sorted(items, key=lambda item: item.path)
    for one, other in pairwise(ordered):
        if one.path == other.path:
            raise PublishRefused(f"{one.source} and {other.source} would both be published as {one.path}; rename one of them")
    return tuple(FileDigest(path=item.path, bytes=item.bytes, sha256=item.sha256) for item in ordered)


def checked_path(path: str) -> str:
    """`path`, if it is a plain relative name. `PublishRefused` for one that could lead out of its folder or be hidden."""
    if not all(_SEGMENT.fullmatch(segment) for segment in path.split("/")):
        raise PublishRefused(
            f"{path!r} in a receipt is no name to publish: plain segments of letters, digits and ._=@+- that begin with a letter, "
            "a digit or '_'; remove the output, so that it is made again without it"
        )
    return path


def _files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}
