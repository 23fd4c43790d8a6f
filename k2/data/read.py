"""Reading what the user brings, a file at a time: lines of JSON, and plain text or source files.

Enters a store and a `FilesSource`; leaves `Found` and `Dropped` in the order of their positions: the byte at which a line
begins in its file, the number of a row in Parquet, 0 for a file that is one document.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from k2.data.document import Dropped, Found
from k2.data.lines import Line, lines_of_range
from k2.data.parse import TOO_LARGE, UNREADABLE, Unusable, text_of_file, text_of_line
from k2.data.store import SourceFile, Store, blocks
from k2.recipe.schema import FilesSource

_LINES = (".jsonl", ".ndjson")


class Format(Enum):
    """How documents lie in a file."""

    LINES = "lines"
    TEXT = "text"

    @property
    def divisible(self) -> bool:
        """Whether a part of the file can be read without what lies before it."""
        return self is Format.LINES


def find_format(name: str) -> Format:
    """The format that the file's name says."""
    return Format.LINES if name.endswith(_LINES) else Format.TEXT


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
        try:
            match find_format(file.name):
                case Format.LINES:
                    yield from self._lines(file, begin, end)
                case Format.TEXT:
                    yield self._text(file)
        except PermissionError:
            if begin == 0:  # once, however the file was cut
                yield Dropped(file.name, 0, UNREADABLE)

    def read_at(self, file: SourceFile, position: int) -> Iterator[Found | Dropped]:
        """Documents of the file of which one stands at `position`, if any does."""
        match find_format(file.name):
            case Format.LINES:
                return self.read(file, position, position + 1)
            case Format.TEXT:
                return self.read(file, 0, file.bytes)

    def _lines(self, file: SourceFile, begin: int, end: int) -> Iterator[Found | Dropped]:
        limit = self.source.max_document_bytes
        for line in lines_of_range(lambda offset: blocks(self.store, file.name, offset), begin, end, limit):
            if line.content is None or line.content.strip():
                yield self._record(file.name, line)

    def _record(self, name: str, line: Line) -> Found | Dropped:
        if line.content is None:
            return Dropped(name, line.position, TOO_LARGE)
        try:
            return Found(name, line.position, text_of_line(line.content, self.source.text_field))
        except Unusable as unusable:
            return Dropped(name, line.position, str(unusable))

    def _text(self, file: SourceFile) -> Found | Dropped:
        if file.bytes > self.source.max_document_bytes:
            return Dropped(file.name, 0, TOO_LARGE)
        try:
            return Found(file.name, 0, text_of_file(self.store.read(file.name, 0, file.bytes)))
        except Unusable as unusable:
            return Dropped(file.name, 0, str(unusable))
