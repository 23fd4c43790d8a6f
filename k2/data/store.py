"""Where source files lie: a way to list them and to read any range of one.

Enters a pattern and the place; leaves `SourceFile`s and bytes. The place's own folder is read here; what lies on
`s3://` or `hf://` is opened by `k2.data.remote` alone.
"""

import io
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

    def read(self, file: SourceFile, begin: int, count: int) -> bytes:
        """The `count` bytes from offset `begin`, fewer at the file's end. `SourceUnavailable`, `PermissionError`."""
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

    def read(self, file: SourceFile, begin: int, count: int) -> bytes:
        try:
            with (self.folder / file.name).open("rb", buffering=0) as opened:
                opened.seek(begin)
                return opened.read(count)
        except PermissionError:
            raise
        except OSError as error:
            raise SourceUnavailable(f"{self.folder / file.name} could not be read at byte {begin}: {error}") from error

    def stat(self, name: str) -> SourceFile:
        try:
            status = (self.folder / name).stat()
        except FileNotFoundError:
            raise DataError(f"{self.folder / name} is gone: the data is made from it, so put it back") from None
        return SourceFile(name, status.st_size, f"{status.st_size}-{status.st_mtime_ns}")


def blocks(store: Store, file: SourceFile, begin: int) -> Iterator[bytes]:
    """The file's content from `begin` to its end, a block at a time."""
    while begin < file.bytes:
        block = store.read(file, begin, min(store.block_bytes, file.bytes - begin))
        if not block:
            raise SourceUnavailable(f"{file.name} ends at byte {begin}, but had {file.bytes} bytes when it was listed")
        yield block
        begin += len(block)


class RandomAccess(io.RawIOBase):
    """A file of a store as a seekable file, for libraries that want one."""

    def __init__(self, store: Store, file: SourceFile) -> None:
        super().__init__()
        self._store, self._file, self._at = store, file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.bytes}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._file.bytes - self._at)
        content = self._store.read(self._file, self._at, left if size < 0 else min(size, left)) if left and size else b""
        self._at += len(content)
        return content
