"""A subset's stream: its documents' tokens as one sequence, whatever shards they lie in.

Enters what `resolve` left; leaves tokens and documents of any part of the sequence. Sample s of context T is the tokens
s*T ... (s+1)*T - 1, so that each stage packs at its own context. Packing is crude as K2's (K2 §1.2): no `<s>`, no mask
between documents, and the tail that fills no sample is dropped and counted.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from k2.data.document import DataError, Document, Found, document_id
from k2.data.fim import Form
from k2.data.freeze import Frozen
from k2.data.resolve import IDS, INTERVALS
from k2.data.shard import FORMS, Shard, join_id, load_array, open_shard, split_id
from k2.data.sources import read_one
from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout

_OPEN_SHARDS = 8
_ID = re.compile(r"[0-9a-f]{24}")


@dataclass(frozen=True)
class StreamDocument:
    """A document as it lies in the stream: tokens `token_start` to `token_end` (exclusive), `</s>` included.

    `number` counts in the stream. Its text is the first `text_bytes` bytes of what lies at `position` of the file with
    the number `file` in the subset's frozen list.
    """

    number: int
    id: str
    file: int
    position: int
    text_bytes: int
    form: Form
    token_start: int
    token_end: int


@dataclass(frozen=True)
class Part:
    """A contiguous part of the stream in one shard: tokens `begin` to `end` of the stream, from `first` on in the shard.

    Documents of the shard are `document_offset` higher in the stream.
    """

    shard: int
    begin: int
    end: int
    first: int
    document_offset: int


class Stream:
    """The stream of one subset, read by memory map. Few shards are open at a time."""

    def __init__(self, layout: RunLayout, subset: str) -> None:
        self._layout, self._subset = layout, subset
        self.intervals = load_array(layout.stream(subset) / INTERVALS)
        self.num_tokens = int(self.intervals["token"][-1])
        self.num_documents = int(self.intervals["document"][-1])
        self.shard = lru_cache(maxsize=_OPEN_SHARDS)(self._shard)

    def read(self, begin: int, end: int) -> npt.NDArray[np.uint16]:
        """Tokens `begin` to `end` - 1."""
        tokens = np.empty(end - begin, "<u2")
        for part in self.parts(begin, end):
            there = self.shard(part.shard).tokens[part.first : part.first + part.end - part.begin]
            tokens[part.begin - begin : part.end - begin] = there
        return tokens

    def parts(self, begin: int, end: int) -> Iterator[Part]:
        """The shards' parts that make up tokens `begin` to `end` - 1."""
        if not 0 <= begin <= end <= self.num_tokens:
            raise ValueError(f"{self._subset} has no tokens {begin} to {end}: its stream holds {self.num_tokens}")
        first = int(np.searchsorted(self.intervals["token"], begin, side="right")) - 1
        while begin < end:
            interval, until = self.intervals[first], min(end, int(self.intervals["token"][first + 1]))
            offset = begin - int(interval["token"])
            documents = int(interval["document"]) - int(interval["first_document"])
            yield Part(int(interval["shard"]), begin, until, int(interval["first_token"]) + offset, documents)
            begin, first = until, first + 1

    def document(self, number: int) -> StreamDocument:
        """The document of that number."""
        if not 0 <= number < self.num_documents:
            raise ValueError(f"{self._subset} has no document {number}: its stream holds {self.num_documents}")
        interval = self.intervals[np.searchsorted(self.intervals["document"], number, side="right") - 1]
        return self._at(int(interval["shard"]), number - int(interval["document"]) + int(interval["first_document"]), interval)

    def documents(self, begin: int = 0, end: int | None = None) -> Iterator[StreamDocument]:
        """The documents that have tokens among `begin` to `end` - 1, in order."""
        for part in self.parts(begin, self.num_tokens if end is None else end):
            shard = self.shard(part.shard)
            first = int(np.searchsorted(shard.ends, part.first, side="right"))
            last = int(np.searchsorted(shard.ends, part.first + part.end - part.begin, side="left"))
            for document in range(first, last + 1):
                yield self._read(part.shard, document, part.document_offset, part.begin - part.first)

    def find(self, document: str) -> list[int]:
        """The numbers of the documents with that id: none, one, or as many as there are copies."""
        high, low = split_id(document)
        ids = load_array(self._layout.stream(self._subset) / IDS)
        first, last = (int(np.searchsorted(ids["high"], np.uint64(high), side=side)) for side in ("left", "right"))
        placed = [entry for entry in ids[first:last] if int(entry["low"]) == low]
        numbers = (self._number(int(entry["shard"]), int(entry["document"])) for entry in placed)
        return [number for number in numbers if number is not None]

    def _number(self, shard: int, document: int) -> int | None:
        """The number in the stream of a shard's document; None when it was left out."""
        shards = self.intervals["shard"]
        first, last = (int(np.searchsorted(shards, shard, side=side)) for side in ("left", "right"))
        run = first + int(np.searchsorted(self.intervals["first_document"][first:last], document, side="right")) - 1
        if run < first:
            return None
        number = int(self.intervals["document"][run]) + document - int(self.intervals["first_document"][run])
        return number if number < int(self.intervals["document"][run + 1]) else None

    def _at(self, shard: int, document: int, interval: npt.NDArray[np.void]) -> StreamDocument:
        documents = int(interval["document"]) - int(interval["first_document"])
        return self._read(shard, document, documents, int(interval["token"]) - int(interval["first_token"]))

    def _read(self, number: int, document: int, document_offset: int, token_offset: int) -> StreamDocument:
        shard = self.shard(number)
        record = shard.documents[document]
        begin = int(shard.ends[document - 1]) if document else 0
        return StreamDocument(
            number=document + document_offset,
            id=join_id(int(record["high"]), int(record["low"])),
            file=int(record["file"]),
            position=int(record["position"]),
            text_bytes=int(record["text_bytes"]),
            form=FORMS[int(record["form"])],
            token_start=begin + token_offset,
            token_end=int(shard.ends[document]) + token_offset,
        )

    def _shard(self, shard: int) -> Shard:
        return open_shard(self._layout.shard(self._subset, shard))


def open_streams(recipe: Recipe, layout: RunLayout) -> Mapping[str, Stream]:
    """The streams of all subsets, by name."""
    return {subset.name: Stream(layout, subset.name) for subset in recipe.data.subsets}


def find_documents(recipe: Recipe, layout: RunLayout, document: str) -> list[tuple[str, int]]:
    """Where the document of that id is: subset and number in its stream, once for every copy. Empty when it is in none."""
    if not _ID.fullmatch(document):
        return []
    return [(subset.name, number) for subset in recipe.data.subsets for number in Stream(layout, subset.name).find(document)]


def read_document(frozen: Frozen, subset: str, document: StreamDocument) -> Document:
    """The document's text, read again from its file. `DataError` when that text is not what was encoded."""
    name = frozen.files[document.file].name
    found = read_one(frozen.source, frozen.place, name, document.position)
    text = found.text.encode()[: document.text_bytes].decode("utf-8", "replace") if isinstance(found, Found) else ""
    if document_id(text) != document.id:
        raise DataError(f"{name} holds another text at position {document.position} than {document.id}, which was encoded from there")
    return Document(document.id, subset, name, document.position, text)
