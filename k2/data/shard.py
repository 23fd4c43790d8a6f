"""A shard: one piece of a subset, encoded. The files, and nothing of how they come about.

`shard_00012/` holds
`tokens.bin`      uint16: the ids of its documents one after the other, `</s>` after each
`ends.npy`        int64, one a document: where its tokens end
`documents.npy`   `DOCUMENT`, one a document: where it was found, and what it is
`ids.npy`         `NAMED`, sorted by id: the shard's part of the way from an id to its document
`held_out.jsonl`  the documents kept from training, text and all
`dropped.jsonl`   what is no document, where, and why
and its receipt. All are read by memory map; none is ever in memory as a whole.
"""

import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from k2.data.document import Document, Dropped
from k2.data.fim import Form

TOKENS, ENDS, DOCUMENTS, IDS, HELD_OUT, DROPPED = "tokens.bin", "ends.npy", "documents.npy", "ids.npy", "held_out.jsonl", "dropped.jsonl"
# `high` and `low` are the 96 bits of the document's id; `file` counts in the subset's frozen list of files; `text_bytes` is how
# much of the text found there the document is (all of it, but for one that a cap cuts); `form` is a place in `FORMS`.
DOCUMENT = np.dtype([("high", "<u8"), ("low", "<u4"), ("file", "<u4"), ("position", "<i8"), ("text_bytes", "<u4"), ("form", "<u4")])
NAMED = np.dtype([("high", "<u8"), ("low", "<u4"), ("document", "<u4")])
FORMS: tuple[Form, ...] = ("plain", "psm", "spm")
_FLUSHED_RECORDS = 8192


@dataclass(frozen=True)
class ShardFacts:
    """What a shard's receipt says of it. `bytes` are of the text of the documents that training may read."""

    documents: int
    tokens: int
    bytes: int
    held_out: int
    forms: dict[str, int]
    dropped: dict[str, int]


@dataclass(frozen=True)
class Shard:
    """A shard's columns, mapped into memory."""

    tokens: npt.NDArray[np.uint16]
    ends: npt.NDArray[np.int64]
    documents: npt.NDArray[np.void]

    def begins(self, documents: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where the tokens of these documents begin."""
        return np.where(documents > 0, self.ends[np.maximum(documents - 1, 0)], 0)


def open_shard(folder: Path) -> Shard:
    """The shard in the folder."""
    ends = load_array(folder / ENDS)
    stored = len(ends) and (folder / TOKENS).is_file()  # the tokens of imported rows lie in their chunks alone
    tokens = np.memmap(folder / TOKENS, dtype="<u2", mode="r") if stored else np.zeros(0, np.uint16)
    return Shard(tokens, ends, load_array(folder / DOCUMENTS))


def load_array(path: Path) -> npt.NDArray[Any]:
    """An array of the disk, mapped into memory. An empty one cannot be, and is read."""
    array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def split_id(document: str) -> tuple[int, int]:
    """The id as the numbers `high` and `low`."""
    return int(document[:16], 16), int(document[16:], 16)


def join_id(high: int, low: int) -> str:
    """The id that these numbers are."""
    return f"{high:016x}{low:08x}"


class ShardWriter:
    """Writes the files of a shard into a folder as its documents come, a few thousand records in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._documents = self._tokens = self._bytes = 0
        self._forms: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._held_out = 0

    def __enter__(self) -> "ShardWriter":
        with ExitStack() as stack:
            self._token_file = stack.enter_context((self._folder / TOKENS).open("wb"))
            self._held_out_file = stack.enter_context((self._folder / HELD_OUT).open("wb"))
            self._dropped_file = stack.enter_context((self._folder / DROPPED).open("wb"))
            self._ends = stack.enter_context(ArrayWriter(self._folder / ENDS, np.dtype("<i8")))
            self._records = stack.enter_context(ArrayWriter(self._folder / DOCUMENTS, DOCUMENT))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, found: Document, file: int, text_bytes: int, ids: npt.NDArray[np.uint16], form: Form) -> None:
        """A document with its ids, `</s>` included."""
        self._token_file.write(ids.tobytes())
        self._documents += 1
        self._tokens += len(ids)
        self._bytes += text_bytes
        self._forms[form] += 1
        self._ends.add(self._tokens)
        self._records.add((*split_id(found.id), file, found.position, text_bytes, FORMS.index(form)))

    def hold_out(self, found: Document) -> None:
        """A document kept from training, with how many that are not stand before it."""
        self._held_out_file.write(json.dumps({**asdict(found), "before": self._documents}, ensure_ascii=False).encode() + b"\n")
        self._held_out += 1

    def drop(self, dropped: Dropped) -> None:
        self._dropped_file.write(json.dumps(asdict(dropped), ensure_ascii=False).encode() + b"\n")
        self._dropped[dropped.reason] += 1

    def facts(self) -> ShardFacts:
        """What was written so far."""
        return ShardFacts(self._documents, self._tokens, self._bytes, self._held_out, dict(self._forms), dict(self._dropped))


def sort_ids(folder: Path) -> None:
    """Write the shard's `ids.npy` from its documents."""
    documents = load_array(folder / DOCUMENTS)
    named = np.empty(len(documents), NAMED)
    named["high"], named["low"], named["document"] = documents["high"], documents["low"], np.arange(len(documents))
    np.save(folder / IDS, named[np.lexsort((named["low"], named["high"]))])  # stable: of equal ids the first document first


class ArrayWriter:
    """Writes an array file that grows. Its header leaves room for the length, which is known at the end."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self._path, self._dtype, self._length = path, dtype, 0
        self._waiting: list[Any] = []

    def __enter__(self) -> "ArrayWriter":
        self._file: IO[bytes] = self._path.open("wb")
        self._write_header()
        return self

    def __exit__(self, *_: Any) -> None:
        self._flush()
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def add(self, record: Any) -> None:
        """One more record."""
        self._waiting.append(record)
        if len(self._waiting) >= _FLUSHED_RECORDS:
            self._flush()

    def extend(self, records: npt.NDArray[Any]) -> None:
        """Many more records."""
        self._flush()
        self._file.write(records.astype(self._dtype, copy=False).tobytes())
        self._length += len(records)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            self.extend(np.array(waiting, self._dtype))

    def _write_header(self) -> None:
        """numpy pads the header so that a longer length takes no more room."""
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self._file, header)
