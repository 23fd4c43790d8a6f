"""Reading what the user brings: `.jsonl` with a text field, plain text and source files.

Enters a `FilesSource` and the place's data folder; leaves `Found` and `Dropped`, file by file in the order of
their names, a line at a time.
"""

import json
from collections.abc import Iterator
from pathlib import Path, PurePath

from k2.data.document import DataError, Dropped, Found
from k2.recipe.schema import FilesSource


def read_files(source: FilesSource, data_dir: Path) -> Iterator[Found | Dropped]:
    """The documents of the files that the pattern names. `DataError` when it names none."""
    for path in _matching(source.pattern, data_dir):
        name = str(path.relative_to(data_dir))
        if path.suffix == ".jsonl":
            yield from _read_jsonl(path, name, source.text_field)
        else:
            yield read_text(path, name)


def read_text(path: Path, name: str) -> Found | Dropped:
    """The file as one document."""
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        return Dropped(name, 0, "not UTF-8")
    except OSError:
        return Dropped(name, 0, "unreadable")
    return Found(name, 0, text) if text.strip() else Dropped(name, 0, "empty")


def _matching(pattern: str, data_dir: Path) -> list[Path]:
    if PurePath(pattern).is_absolute() or ".." in PurePath(pattern).parts:
        raise DataError(
            f"source.pattern = {pattern!r} must lie inside the place's data folder: "
            f"write it relative to {data_dir}, or set the place's data_dir"
        )
    found = sorted(path for path in data_dir.glob(pattern) if path.is_file())
    if not found:
        raise DataError(
            f"source.pattern = {pattern!r} names no file in {data_dir.resolve()}: "
            "put the files there, or set the place's data_dir to where they are"
        )
    return found


def _read_jsonl(path: Path, name: str, text_field: str) -> Iterator[Found | Dropped]:
    with path.open("rb") as file:
        for position, line in enumerate(file):
            if line.strip():
                text, reason = _parse_line(line, text_field)
                yield Dropped(name, position, reason) if text is None else Found(name, position, text)


def _parse_line(line: bytes, text_field: str) -> tuple[str | None, str]:
    """The line's text, or None and why there is none."""
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return None, "not UTF-8"
    except (ValueError, RecursionError):
        return None, "not JSON"
    if not isinstance(record, dict) or text_field not in record:
        return None, "no text field"
    text = record[text_field]
    if not isinstance(text, str):
        return None, "text is no string"
    if not text.strip():
        return None, "empty"
    return (None, "not encodable") if _has_lone_surrogate(text) else (text, "")


def _has_lone_surrogate(text: str) -> bool:
    """JSON can spell half of a surrogate pair, which no UTF-8 can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
