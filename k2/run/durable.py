"""Files that outlive the process: written beside, synced, renamed. Until the rename they do not exist.

`durable_folder` is the commit of everything the project makes: a folder filled beside its place, digested,
given its receipt last, and renamed. A crash at any point leaves either the old state or the new one, and a
hidden `.tmp-*` folder that `sweep` removes.
"""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".tmp-"  # how the names of what is still being written begin


def sync_file(path: Path) -> None:
    """Force the file's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Force the folder's entries to the disk, after a file was created or renamed in it."""
    sync_file(path)


def name_beside(target: Path) -> Path:
    """A new hidden name in the folder of `target`, for what is to be renamed to it."""
    return target.parent / f"{UNFINISHED}{target.name}-{uuid.uuid4().hex[:8]}"


def write_durably(path: Path, content: bytes) -> None:
    """Replace `path` by `content` at once: readers see the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = name_beside(path)
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def durable_file(target: Path) -> Iterator[Path]:
    """Fill the yielded file, which may be too large for memory; on leaving it replaces `target`. On an error nothing is left."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = name_beside(target)
    try:
        yield beside
        sync_file(beside)
        os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def open_beside(target: Path) -> Path:
    """A new, empty, hidden folder beside `target`, to be filled and then given to `commit_folder`."""
    beside = name_beside(target)
    beside.mkdir(parents=True)
    return beside


def commit_folder(beside: Path, target: Path) -> None:
    """Sync every file of `beside` and rename it to `target`. `FileExistsError` when that is there: nothing finished is overwritten."""
    if target.exists():
        raise FileExistsError(f"{target} exists already; a finished artifact is never overwritten")
    for path in sorted(beside.rglob("*")):
        sync_file(path)
    sync_folder(beside)
    try:
        beside.rename(target)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        raise FileExistsError(f"{target} was made by somebody else meanwhile") from error
    sync_folder(target.parent)


@contextmanager
def durable_folder(target: Path) -> Iterator[Path]:
    """Fill the yielded folder; on leaving it becomes `target`. On an error nothing is left."""
    beside = open_beside(target)
    try:
        yield beside
        commit_folder(beside, target)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def sweep(folder: Path) -> list[Path]:
    """Remove what interrupted writers left directly under `folder`. Call it only while holding the run's lease."""
    return _remove_all(sorted(folder.glob(f"{UNFINISHED}*")) if folder.is_dir() else [])


def sweep_beside(target: Path) -> list[Path]:
    """As `sweep`, of this one target: for whoever alone makes it, while others make its neighbours."""
    return _remove_all(sorted(target.parent.glob(f"{UNFINISHED}{target.name}-{'[0-9a-f]' * 8}")))


def _remove_all(left: list[Path]) -> list[Path]:
    for path in left:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return left


def remove_folder(path: Path) -> None:
    """Remove a finished folder at once for every reader: it is renamed first, and what a crash leaves of it is swept."""
    gone = name_beside(path)
    path.rename(gone)
    sync_folder(path.parent)
    shutil.rmtree(gone, ignore_errors=True)
