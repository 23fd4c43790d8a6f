"""The mirror: one folder that holds the data sets of the 21 rows as `owner/name`, for scoring without a network. Torch-free.

Enters: the folder that a place names. Leaves: what is missing in it, and one digest for each data set, over every file of it.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from k2.eval.benchmarks import data_sets
from k2.run.receipt import digest_files

_DATA = (".parquet", ".json", ".jsonl", ".csv", ".tsv", ".arrow", ".gz", ".zst", ".zip", ".txt")
_HIDDEN = "."  # what a download leaves beside the files: .cache, .gitattributes


def missing_in(mirror: Path, names: Iterable[str] = ()) -> list[str]:
    """The data sets (all of them, or those named) of which the folder holds no file of data."""
    return [name for name in (names or data_sets()) if not any(path.suffix in _DATA for path in files_of(mirror / name))]


def files_of(folder: Path) -> list[Path]:
    """The files of one data set, without what a download keeps beside them."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(part.startswith(_HIDDEN) for part in path.relative_to(folder).parts))


def data_digest(mirror: Path, name: str) -> str:
    """One SHA-256 for the data set: over the names, sizes and digests of its files."""
    files = digest_files(mirror / name, files_of(mirror / name))
    return hashlib.sha256(json.dumps([file.model_dump() for file in files]).encode()).hexdigest()
