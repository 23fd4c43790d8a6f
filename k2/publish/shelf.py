"""The reading side of a target: which parcels are published there, and their files, each compared with its receipt."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from k2.publish.failure import PublishFailed
from k2.publish.parcel import checked_path
from k2.publish.target import FolderTarget, HubTarget, S3Target, Target
from k2.run.durable import sync_file
from k2.run.receipt import RECEIPT, FileDigest, Receipt, digest_file


class Shelf(Protocol):
    """Published parcels, by name."""

    def names(self) -> list[str]:
        """Every name under which a receipt may stand."""

    def read(self, name: str) -> bytes | None:
        """The parcel's receipt as it stands there; None where there is none."""

    def fetch(self, name: str, path: str, to: Path) -> None:
        """Write one file of the parcel to `to`."""


@contextmanager
def browse(target: Target) -> Iterator[Shelf]:
    """The target's shelf. `PublishFailed` with the fix when it cannot be reached."""
    match target:
        case FolderTarget():
            from k2.publish.folder import FolderShelf

            yield FolderShelf(target.path)
        case S3Target():
            from k2.publish.s3 import S3Shelf, opened

            with opened(target, f"nothing could be restored from {target}") as store:
                yield S3Shelf(store)
        case HubTarget():
            from k2.publish.hub import HubShelf, connected

            with connected(target, f"nothing could be restored from {target}") as repository:
                yield HubShelf(repository)


def receipt_of(shelf: Shelf, name: str, target: str) -> Receipt:
    """The parcel's receipt, every path in it a plain one."""
    content = shelf.read(name)
    if content is None:
        raise PublishFailed(f"{target} holds no published {name}: its receipt is missing. `k2 publish` writes it last")
    try:
        receipt = Receipt.model_validate_json(content)
    except ValidationError as error:
        raise PublishFailed(f"{target}/{name}/{RECEIPT} is no receipt of k2") from error
    for file in receipt.files:
        checked_path(file.path)
    return receipt


def bring(shelf: Shelf, name: str, file: FileDigest, to: Path) -> None:
    """Fetch the file and compare it with its digest. `PublishFailed` when it is another."""
    to.parent.mkdir(parents=True, exist_ok=True)
    shelf.fetch(name, file.path, to)
    if to.stat().st_size != file.bytes or digest_file(to) != file.sha256:
        to.unlink()
        raise PublishFailed(f"{name}/{file.path} is not what its receipt says; publish it again, or restore from another target")
    sync_file(to)
