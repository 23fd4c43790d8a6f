"""Where source files lie: a way to list them and to read any range of one.

Enters a pattern and the place; leaves `SourceFile`s and bytes. The place's own folder is read here; what lies on
`s3://` or `hf://` is opened by `k2.data.remote` alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Protocol

from k2.data.document import DataError

BLOCK_BYTES = 1 << 20


class SourceUnavailable(OSError):
    """A source that could not be read now: the network, the store, a disk. Trying again may help; nothing was dropped."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a source, as it was when listed.

    `name` is relative to the place's data folder, or the full `s3://` or `hf://` address. `version` changes with the
    content: size and time of a local file, ETag of an object, object id of a file on the Hub.
    """

    name: str
    bytes: int
    version: str


class Store(Protocol):
    """A place that files are read from."""

    block_bytes: int

    def list(self, pattern: str) -> list[SourceFile]:
        """The files that the glob names, by name. `DataError` when it names none or may not be read."""
        ...

    def read(self, name: str, begin: int, count: int) -> bytes:
        """Up to `count` bytes from offset `begin`, fewer only at the file's end. `SourceUnavailable`, `PermissionError`."""
        ...

    def stat(self, name: str) -> SourceFile:
        """The file as it is now. `DataError` when it is gone."""
        ...


class FolderStore:
    """The files below one folder."""

    block_bytes = BLOCK_BYTES

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def list(self, pattern: str) -> list[SourceFile]:
        if PurePath(pattern).is_absolute() or ".." in PurePath(pattern).parts:
            raise DataError(
                f"source.pattern = {pattern!r} must lie inside the place's data folder: "
                f"write it relative to {self.folder}, or set the place's data_dir"
            )
        names = sorted(path.relative_to(self.folder).as_posix() for path in self.folder.glob(pattern) if path.is_file())
        if not names:
            raise DataError(
                f"source.pattern = {pattern!r} names no file in {self.folder.resolve()}: "
                "put the files there, or set the place's data_dir to where they are"
            )
        return [self.stat(name) for name in names]

    def read(self, name: str, begin: int, count: int) -> bytes:
        try:
            with (self.folder / name).open("rb", buffering=0) as file:
                file.seek(begin)
                return file.read(count)
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            raise SourceUnavailable(f"{self.folder / name} could not be read at byte {begin}: {error}") from error

    def stat(self, name: str) -> SourceFile:
        try:
            status = (self.folder / name).stat()
        except FileNotFoundError:
            raise DataError(f"{self.folder / name} is gone: the data is made from it, so put it back") from None
        return SourceFile(name, status.st_size, f"{status.st_size}-{status.st_mtime_ns}")


def blocks(store: Store, name: str, begin: int) -> Iterator[bytes]:
    """The file's content from `begin` to its end, a block at a time."""
    while block := store.read(name, begin, store.block_bytes):
        yield block
        begin += len(block)
