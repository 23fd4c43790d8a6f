"""Publish into a folder: a disk, a network share, or the place where something else picks it up.

Each file is written beside its place, synced and renamed; the receipt is linked into place, which fails when one is
there. What was written is read again and hashed.
"""

import os
import shutil
from pathlib import Path

from k2.publish.deliver import Delivered, deliver, inspect
from k2.publish.failure import PublishFailed
from k2.publish.parcel import Item, Parcel
from k2.publish.target import FolderTarget
from k2.run.durable import name_beside, sync_file, sync_folder
from k2.run.receipt import RECEIPT, digest_file


class FolderStore:
    """Objects as files below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, path: str) -> bytes | None:
        try:
            return (self.root / path).read_bytes()
        except FileNotFoundError:
            return None

    def differs(self, path: str, item: Item) -> str | None:
        place = self.root / path
        if not place.is_file():
            return "is missing"
        if place.stat().st_size != item.bytes:
            return f"has {place.stat().st_size} bytes instead of {item.bytes}"
        return None if digest_file(place) == item.sha256 else "has other content"

    def send(self, path: str, item: Item) -> None:
        place = self.root / path
        beside = _beside(place)
        try:
            shutil.copyfile(item.source, beside)
            sync_file(beside)
            os.replace(beside, place)
        finally:
            beside.unlink(missing_ok=True)
        sync_folder(place.parent)

    def create(self, path: str, content: bytes) -> bool:
        place = self.root / path
        beside = _beside(place)
        try:
            beside.write_bytes(content)
            sync_file(beside)
            place.hardlink_to(beside)
        except FileExistsError:
            return False
        finally:
            beside.unlink(missing_ok=True)
        sync_folder(place.parent)
        return True

    def remove(self, path: str) -> None:
        (self.root / path).unlink(missing_ok=True)
        sync_folder((self.root / path).parent)


class FolderShelf:
    """Parcels as folders below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        return sorted(path.parent.name for path in self.root.glob(f"*/{RECEIPT}"))

    def read(self, name: str) -> bytes | None:
        return FolderStore(self.root).read(f"{name}/{RECEIPT}")

    def fetch(self, name: str, path: str, to: Path) -> None:
        try:
            shutil.copyfile(self.root / name / path, to)
        except OSError as error:
            raise PublishFailed(f"{self.root / name / path} could not be read: {error}") from error


def publish_to_folder(target: FolderTarget, parcel: Parcel) -> Delivered:
    """Deliver the parcel into the target's folder, which is made if need be."""
    try:
        return deliver(FolderStore(target.path), parcel, str(target))
    except OSError as error:
        raise PublishFailed(
            f"{parcel.name} could not be written to {target}: {error}; make room or make the folder writable, then try again"
        ) from error


def inspect_folder(target: FolderTarget, parcel: Parcel) -> list[str]:
    """What is wrong with the parcel there."""
    return inspect(FolderStore(target.path), parcel, str(target))


def _beside(place: Path) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    return name_beside(place)
