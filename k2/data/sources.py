"""Sources: from the recipe's declaration of a subset to its documents, in pieces that any number of workers may share.

`list_source` says which files there are, `cut` divides them by their content alone, `read_piece` gives the documents of
one piece, and `read_one` a single document again. Files come in the order of their names, and documents in the order of
their positions, so that the pieces one after the other are the source.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from k2.data.document import DataError, Dropped, Found
from k2.data.installation import read_installation
from k2.data.read import FileReader, find_format
from k2.data.remote import open_remote
from k2.data.store import FolderStore, SourceFile, Store
from k2.recipe.data import FilesSource, PythonSource, Source
from k2.recipe.place import Place

__all__ = ["Piece", "SourceFile", "bundle", "cut", "list_source", "read_one", "read_piece"]

_SMALLEST_BYTES = 4096  # what opening a file costs at least, as bytes read


@dataclass(frozen=True)
class Piece:
    """A part of one file: the unit of work and of retry.

    It holds the documents whose place in the file begins at byte `begin` to `end` - 1: a line at its first byte, a
    Parquet row group at its first byte. What can only be read from its start is one piece.
    """

    file: SourceFile
    begin: int
    end: int


def list_source(source: Source, place: Place) -> list[SourceFile]:
    """The source's files, by name. `DataError` when there are none or the place does not allow them."""
    if isinstance(source, PythonSource):
        return [SourceFile(f"python:{source.part}", 0, sys.version)]
    return open_store(source, place).list(source.pattern)


def cut(files: Sequence[SourceFile], piece_bytes: int) -> list[Piece]:
    """Divide the files into pieces of at most `piece_bytes` where their format allows it."""
    return [piece for file in files for piece in _cut_file(file, piece_bytes)]


def bundle(pieces: Sequence[Piece], bundle_bytes: int) -> list[tuple[Piece, ...]]:
    """Runs of pieces of at most `bundle_bytes` together: a source tree of small files is not as many shards."""
    bundles: list[tuple[Piece, ...]] = []
    held: list[Piece] = []
    held_bytes = 0
    for piece in pieces:
        size = max(piece.end - piece.begin, _SMALLEST_BYTES)
        if held and held_bytes + size > bundle_bytes:
            bundles.append(tuple(held))
            held, held_bytes = [], 0
        held.append(piece)
        held_bytes += size
    return [*bundles, tuple(held)] if held else bundles


def read_piece(source: Source, place: Place, piece: Piece) -> Iterator[Found | Dropped]:
    """The piece's documents, and what is none with its reason.

    `DataError` when the file is not what was listed, `SourceUnavailable` when it cannot be read now: then nothing is
    dropped, and the piece can be read again from its beginning.
    """
    if isinstance(source, PythonSource):
        return read_installation(source)
    reader = _reader(source, place)
    now = reader.store.stat(piece.file.name)
    if now.version != piece.file.version:
        raise DataError(
            f"{piece.file.name} changed since the build began (it was {piece.file.version}, it is {now.version}): "
            "put the old file back, or begin a new build"
        )
    return reader.read(now, piece.begin, piece.end)


def read_one(source: Source, place: Place, name: str, position: int) -> Found | Dropped:
    """The document at that position of that file, read again from where it lies. `DataError` when there is none."""
    if isinstance(source, PythonSource):
        candidates: Iterator[Found | Dropped] = (found for found in read_installation(source) if found.source == name)
    else:
        reader = _reader(source, place)
        candidates = reader.read_at(reader.store.stat(name), position)
    for found in candidates:
        if found.position == position:
            return found
    raise DataError(f"{name} has no document at position {position}: it is not the file that the data was made from")


def open_store(source: FilesSource, place: Place) -> Store:
    """Where the source's files lie. `DataError` when the place does not let recipes read from there."""
    refuse_forbidden(source, place)
    return open_remote(source.pattern) if is_remote(source) else FolderStore(Path(place.data_dir))


def is_remote(source: FilesSource) -> bool:
    """Whether the files lie at an address and not in the place's data folder."""
    return "://" in source.pattern


def refuse_forbidden(source: FilesSource, place: Place) -> None:
    """`DataError` for an address that the place does not let recipes read from."""
    if is_remote(source) and not any(source.pattern.startswith(beginning.rstrip("/") + "/") for beginning in place.read_from):
        allowed = ", ".join(place.read_from) or "no address"
        raise DataError(
            f"source.pattern = {source.pattern!r} may not be read here: the place allows {allowed}; "
            "have its beginning added to the place's read_from, or copy the files into the place's data folder"
        )


def _reader(source: FilesSource, place: Place) -> FileReader:
    return FileReader(open_store(source, place), source)


def _cut_file(file: SourceFile, piece_bytes: int) -> Iterator[Piece]:
    """Equal steps of `piece_bytes`; the last may be shorter. An empty file is one empty piece, so that it is accounted for."""
    if not find_format(file.name).divisible or file.bytes <= piece_bytes:
        yield Piece(file, 0, file.bytes)
        return
    for begin in range(0, file.bytes, piece_bytes):
        yield Piece(file, begin, min(begin + piece_bytes, file.bytes))
