"""The receipt: a small JSON written last beside every output. No receipt: the output does not exist.

It says what the output is, what made it, from which inputs, and the digest and size of every file.
Following `inputs` from receipt to receipt is how one walks from a score back to a document.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import k2
from k2.run.durable import durable_folder, write_durably

RECEIPT = "receipt.json"
_BLOCK_BYTES = 1 << 20


class FileDigest(BaseModel):
    """Size and SHA-256 of one file, by its path relative to the receipt's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Receipt(BaseModel):
    """What an output is. `kind` names it (`chunk`, `checkpoint`, `export`, `scores`, `published` ...)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    name: str
    recipe: str = Field(description="digest of the recipe that asked for it")
    made_by: str = f"k2 {k2.__version__}"
    made_at: str
    inputs: dict[str, str] = Field(default_factory=dict, description="name of each input -> its digest")
    facts: dict[str, Any] = Field(default_factory=dict, description="counts, steps, tokens: what readers need of it")
    files: tuple[FileDigest, ...] = ()
    sealed: str | None = Field(default=None, description="its own `digest`, where a changed bit of the receipt itself must be seen")

    @property
    def digest(self) -> str:
        """One digest for the whole output: over the digests of its files and its facts, not over the time."""
        identity = {
            "kind": self.kind,
            "name": self.name,
            "inputs": self.inputs,
            "facts": self.facts,
            "files": [f.model_dump() for f in self.files],
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


class BrokenOutput(ValueError):
    """An output that does not agree with its receipt, or has none. The text names the file and what is wrong."""


def now() -> str:
    """The time in UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def digest_file(path: Path) -> str:
    """SHA-256 of the file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_files(folder: Path, paths: Iterable[Path]) -> tuple[FileDigest, ...]:
    """The digests of `paths`, named relative to `folder`, in the order of their names."""
    return tuple(FileDigest(path=str(p.relative_to(folder)), bytes=p.stat().st_size, sha256=digest_file(p)) for p in sorted(paths))


def write_receipt(path: Path, receipt: Receipt) -> Receipt:
    """Write the receipt durably; give it back."""
    write_durably(path, receipt.model_dump_json(indent=1).encode() + b"\n")
    return receipt


def read_receipt(path: Path) -> Receipt:
    """The receipt at `path`; a folder means the receipt in it. `BrokenOutput` when there is none or it cannot be read."""
    if path.is_dir():
        path = path / RECEIPT
    try:
        return Receipt.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise BrokenOutput(f"{path} does not exist: what has no receipt was never finished; make it again") from error
    except (ValidationError, OSError) as error:
        raise BrokenOutput(f"{path} is no readable receipt ({error.__class__.__name__}); make the output again") from error


def find_receipt(path: Path) -> Receipt | None:
    """The receipt at `path` if a readable one is there."""
    try:
        return read_receipt(path)
    except BrokenOutput:
        return None


def receipts_in(folder: Path) -> Iterator[Receipt]:
    """The receipts of the finished outputs directly below `folder`, by name. What is hidden is still being written."""
    for path in sorted(folder.glob(f"*/{RECEIPT}")):
        receipt = None if path.parent.name.startswith(".") else find_receipt(path)
        if receipt is not None:
            yield receipt


def check_files(folder: Path, receipt: Receipt, at_once: int = 1) -> list[str]:
    """What is wrong with the files that the receipt lists: one line each, none when all agree. `at_once` are digested side by side."""
    with ThreadPoolExecutor(at_once) as pool:
        return [wrong for wrong in pool.map(lambda file: _check_file(folder, file), receipt.files) if wrong is not None]


def _check_file(folder: Path, file: FileDigest) -> str | None:
    path = folder / file.path
    if not path.resolve().is_relative_to(folder.resolve()) or path.is_symlink():
        return f"{file.path}: leads out of its folder"
    if not path.is_file():
        return f"{file.path}: is missing"
    if path.stat().st_size != file.bytes:
        return f"{file.path}: has {path.stat().st_size} bytes, its receipt says {file.bytes}"
    if digest_file(path) != file.sha256:
        return f"{file.path}: its content does not match the digest in its receipt"
    return None


def seal_folder(folder: Path, receipt: Receipt) -> Receipt:
    """Digest every file below `folder` and write its receipt last. For a folder that `durable_folder` will rename."""
    files = digest_files(folder, [p for p in folder.rglob("*") if p.is_file() and p.name != RECEIPT])
    return write_receipt(folder / RECEIPT, receipt.model_copy(update={"files": files}))


def commit_receipt_only(target: Path, receipt: Receipt) -> Receipt:
    """An output that is nothing but its receipt (a verification, a remote upload)."""
    with durable_folder(target) as folder:
        write_receipt(folder / RECEIPT, receipt)
    return receipt
