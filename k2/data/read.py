"""Reading what the user brings, a file at a time: lines of JSON, plain or compressed, Parquet, and text or source files.

Enters a store and a `FilesSource`; leaves `Found` and `Dropped` in the order of their positions: the byte at which a line
begins in its (decompressed) file, the number of a row in Parquet, 0 for a file that is one document.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import takewhile
from pathlib import Path

from k2.data.compressed import decompressed
from k2.data.document import Dropped, Found
from k2.data.lines import Line, lines_of_range, split_lines
from k2.data.parquet import read_parquet, read_row
from k2.data.parse import EMPTY, TOO_LARGE, UNREADABLE, Unusable, text_of_file, text_of_line
from k2.data.store import SourceFile, Store, blocks
from k2.recipe.data import FilesSource

_LINES = (".jsonl", ".ndjson")
_COMPRESSED_LINES = tuple(f"{lines}.{way}" for lines in ("jsonl", "ndjson", "json") for way in ("gz", "zst"))


class Format(Enum):
    """How documents lie in a file."""

    LINES = "lines"
    COMPRESSED_LINES = "compressed lines"
    PARQUET = "parquet"
    TEXT = "text"

    @property
    def divisible(self) -> bool:
        """Whether a part of the file can be read without what lies before it."""
        return self in {Format.LINES, Format.PARQUET}


def find_format(name: str) -> Format:
    """The format that the file's name says."""
    if name.endswith(_LINES):
        return Format.LINES
    if name.endswith(_COMPRESSED_LINES):
        return Format.COMPRESSED_LINES
    return Format.PARQUET if name.endswith(".parquet") else Format.TEXT


def read_text(path: Path, name: str) -> Found | Dropped:
    """A file of this machine as one document."""
    try:
        return Found(name, 0, text_of_file(path.read_bytes()))
    except OSError:
        return Dropped(name, 0, UNREADABLE)
    except Unusable as unusable:
        return Dropped(name, 0, str(unusable))


@dataclass(frozen=True)
class FileReader:
    """Reads the files of one source."""

    store: Store
    source: FilesSource

    def read(self, file: SourceFile, begin: int, end: int) -> Iterator[Found | Dropped]:
        """The documents that begin at bytes `begin` to `end` - 1 of the file."""
        if file.bytes == 0:
            yield Dropped(file.name, 0, EMPTY)
            return
        try:
            yield from self._read(file, begin, end)
        except PermissionError:
            if begin == 0:  # once, however the file was cut
                yield Dropped(file.name, 0, UNREADABLE)

    def read_at(self, file: SourceFile, position: int) -> Iterator[Found | Dropped]:
        """Documents of the file of which one stands at `position`, if any does."""
        match find_format(file.name):
            case Format.LINES:
                return self.read(file, position, position + 1)
            case Format.PARQUET:
                return read_row(self.store, file, position, self.source.text_field, self.source.max_document_bytes)
            case Format.COMPRESSED_LINES:
                return takewhile(lambda found: found.position <= position, self.read(file, 0, file.bytes))
            case Format.TEXT:
                return self.read(file, 0, file.bytes)

    def _read(self, file: SourceFile, begin: int, end: int) -> Iterator[Found | Dropped]:
        limit = self.source.max_document_bytes
        match find_format(file.name):
            case Format.LINES:
                yield from self._records(file.name, lines_of_range(lambda offset: blocks(self.store, file, offset), begin, end, limit))
            case Format.COMPRESSED_LINES:
                yield from self._records(file.name, split_lines(decompressed(file.name, blocks(self.store, file, 0)), 0, limit))
            case Format.PARQUET:
                yield from read_parquet(self.store, file, begin, end, self.source.text_field, limit)
            case Format.TEXT:
                yield self._text(file)

    def _records(self, name: str, lines: Iterator[Line]) -> Iterator[Found | Dropped]:
        return (self._record(name, line) for line in lines if line.content is None or line.content.strip())

    def _record(self, name: str, line: Line) -> Found | Dropped:
        if line.content is None:
            return Dropped(name, line.position, line.reason)
        try:
            return Found(name, line.position, text_of_line(line.content, self.source.text_field))
        except Unusable as unusable:
            return Dropped(name, line.position, str(unusable))

    def _text(self, file: SourceFile) -> Found | Dropped:
        if file.bytes > self.source.max_document_bytes:
            return Dropped(file.name, 0, TOO_LARGE)
        try:
            return Found(file.name, 0, text_of_file(self.store.read(file, 0, file.bytes)))
        except Unusable as unusable:
            return Dropped(file.name, 0, str(unusable))
