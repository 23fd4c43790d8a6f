"""Documents of a Parquet file: the text column alone, a few rows at a time.

Enters a store, a file and a range of its bytes; leaves `Found` and `Dropped` of the row groups that begin in the range,
each at the number of its row in the file. Rows of a damaged row group are dropped one by one, so that their number counts.
"""

from collections.abc import Iterator
from typing import Any

from k2.data.document import Dropped, Found
from k2.data.parse import BOMB, DAMAGED, NO_FIELD, NO_STRING, TOO_LARGE, Unusable, text_of_bytes
from k2.data.store import RandomAccess, SourceFile, SourceUnavailable, Store

_BATCH_ROWS = 64
_BUFFER_BYTES = 1 << 20  # read at once of a column, rather than a whole row group
_BOMB_RATIO, _BOMB_BYTES = 250, 64 << 20  # as for compressed files


def read_parquet(store: Store, file: SourceFile, begin: int, end: int, field: str, limit: int) -> Iterator[Found | Dropped]:
    """The documents of the row groups that begin at bytes `begin` to `end` - 1. `field` `a.b` is the member b of a struct a."""
    opened = _open(store, file)
    if opened is not None:
        for group, first_byte, first_row in _groups(opened.metadata):
            if begin <= first_byte < end:
                yield from _read_group(opened, file.name, group, first_row, field, limit)
    elif begin == 0:  # once, however the file is cut
        yield Dropped(file.name, 0, DAMAGED)


def read_row(store: Store, file: SourceFile, row: int, field: str, limit: int) -> Iterator[Found | Dropped]:
    """The document of one row."""
    opened = _open(store, file)
    for group, _, first_row in _groups(opened.metadata) if opened else ():
        if first_row <= row < first_row + opened.metadata.row_group(group).num_rows:
            yield from (found for found in _read_group(opened, file.name, group, first_row, field, limit) if found.position == row)


def _open(store: Store, file: SourceFile) -> Any:
    """The opened file, None when it is no Parquet."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(pa.PythonFile(RandomAccess(store, file), mode="r"), buffer_size=_BUFFER_BYTES)
    except SourceUnavailable:
        raise
    except (pa.ArrowException, OSError):
        return None


def _groups(metadata: Any) -> Iterator[tuple[int, int, int]]:
    """Number, first byte and first row of each row group."""
    first_row = 0
    for group in range(metadata.num_row_groups):
        about = metadata.row_group(group)
        yield group, min((_first_byte(about.column(number)) for number in range(about.num_columns)), default=0), first_row
        first_row += about.num_rows


def _first_byte(column: Any) -> int:
    return int(column.dictionary_page_offset or column.data_page_offset)


def _read_group(opened: Any, name: str, group: int, first_row: int, field: str, limit: int) -> Iterator[Found | Dropped]:
    """The rows of one group, and the reason for each that cannot be had."""
    import pyarrow as pa

    about, row = opened.metadata.row_group(group), first_row
    reason = _why_not(about, field)
    if reason is None:
        reason = DAMAGED  # of the rows that are left when reading ends early
        try:
            for batch in opened.iter_batches(_BATCH_ROWS, row_groups=[group], columns=[field], use_threads=False):
                for value in _values(batch, field):
                    yield _document(name, row, value, limit)
                    row += 1
        except SourceUnavailable:
            raise
        except (pa.ArrowException, OSError):
            pass
    for lost in range(row, first_row + about.num_rows):
        yield Dropped(name, lost, reason)


def _why_not(about: Any, field: str) -> str | None:
    """Why no row of the group has a text, from what the file says of its columns."""
    columns = [about.column(number) for number in range(about.num_columns)]
    named = [column for column in columns if column.path_in_schema == field]
    if not named:
        return NO_FIELD
    if named[0].physical_type != "BYTE_ARRAY":
        return NO_STRING
    if named[0].total_uncompressed_size > max(_BOMB_BYTES, _BOMB_RATIO * named[0].total_compressed_size):
        return BOMB
    return None


def _values(batch: Any, field: str) -> list[bytes | None]:
    """The column's values as bytes: text that is no UTF-8 is found when it is decoded, not before."""
    import pyarrow as pa
    from pyarrow import compute

    column = batch.column(0)
    for member in field.split(".")[1:] if field not in batch.schema.names else ():
        column = compute.struct_field(column, member)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    values: list[bytes | None] = column.cast(pa.large_binary()).to_pylist()
    return values


def _document(name: str, row: int, value: bytes | None, limit: int) -> Found | Dropped:
    if value is None:
        return Dropped(name, row, NO_STRING)
    if len(value) > limit:
        return Dropped(name, row, TOO_LARGE)
    try:
        return Found(name, row, text_of_bytes(value))
    except Unusable as unusable:
        return Dropped(name, row, str(unusable))
