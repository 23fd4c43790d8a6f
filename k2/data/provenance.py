"""Which documents lie in a chunk, told beside it, so that the chunk answers for every row wherever it is published.

Enters a chunk's index and what the shards say of the documents that it names; leaves beside the chunk
`chunk_NNN.documents.npy`  `CHUNK_DOCUMENT`, one a document with tokens in the chunk, ordered by subset and number: 40 bytes
`chunk_NNN.files.jsonl`    the files that these documents were read from, by subset and number
"""

import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from k2.data.freeze import file_names
from k2.data.shard import DOCUMENT, join_id, load_array, split_id
from k2.data.stream import Stream
from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout
from k2.run.receipt import BrokenOutput

# `subset` and `document` are as in the chunk's index; the rest is what the document's shard says of it
CHUNK_DOCUMENT = np.dtype([("subset", "<u4"), ("document", "<i4"), *((name, DOCUMENT[name]) for name in DOCUMENT.names or ())])


@dataclass(frozen=True)
class SubsetDocuments:
    """The documents of one subset that lie in a chunk: their ascending numbers in the stream, their records, and the subset's files."""

    subset: int
    name: str
    numbers: npt.NDArray[np.integer]
    records: npt.NDArray[np.void]
    files: Sequence[str]


def documents_of_chunk(recipe: Recipe, layout: RunLayout, index: npt.NDArray[np.int32]) -> Iterator[SubsetDocuments]:
    """What the streams say of every document that the index names."""
    for number in np.unique(index[:, 1]).tolist():
        subset = recipe.data.subsets[number]
        documents = np.unique(index[index[:, 1] == number, 2])
        yield SubsetDocuments(number, subset.name, documents, _records(Stream(layout, subset.name), documents), file_names(layout, subset))


def write_documents(documents: Path, files: Path, of_subsets: Sequence[SubsetDocuments]) -> None:
    """Write both files."""
    told = np.zeros(sum(len(one.numbers) for one in of_subsets), CHUNK_DOCUMENT)
    begin = 0
    with files.open("w", encoding="utf-8") as lines:
        for one in of_subsets:
            there = told[begin : begin + len(one.numbers)]
            there["subset"], there["document"] = one.subset, one.numbers
            for name in DOCUMENT.names or ():
                there[name] = one.records[name]
            begin += len(one.numbers)
            for number in np.unique(one.records["file"]).tolist():
                line = {"subset": one.subset, "subset_name": one.name, "file": number, "name": one.files[number]}
                lines.write(json.dumps(line, ensure_ascii=False) + "\n")
    with documents.open("wb") as file:
        np.save(file, told)


class ChunkDocuments:
    """The documents of a chunk, as they are told beside it."""

    def __init__(self, path: Path) -> None:
        self._path, self._told = path, load_array(path)

    def id_of(self, subset: int, document: int) -> str:
        """The id of a document that the chunk's index names. `BrokenOutput` where the chunk does not tell it."""
        at = bisect_left(self._told, (subset, document), key=_place)
        if at == len(self._told) or _place(self._told[at]) != (subset, document):
            raise BrokenOutput(f"{self._path} tells nothing of document {document} of subset {subset}, which the index beside it names")
        return join_id(int(self._told[at]["high"]), int(self._told[at]["low"]))

    def find(self, document: str) -> list[tuple[int, int]]:
        """Subset and number of the document of that id, once for every copy."""
        high, low = split_id(document)
        found = self._told[(self._told["high"] == high) & (self._told["low"] == low)]
        return [(int(one["subset"]), int(one["document"])) for one in found]


def _place(one: np.void) -> tuple[int, int]:
    return int(one["subset"]), int(one["document"])


def _records(stream: Stream, numbers: npt.NDArray[np.int32]) -> npt.NDArray[np.void]:
    """The records of the stream's documents of these ascending numbers, shard by shard."""
    interval = stream.intervals[np.searchsorted(stream.intervals["document"], numbers, side="right") - 1]
    in_shard = numbers - interval["document"] + interval["first_document"]
    records = np.empty(len(numbers), DOCUMENT)
    for begin, end in pairwise(np.flatnonzero(np.diff(interval["shard"], prepend=-1, append=-1))):
        records[begin:end] = stream.shard(int(interval["shard"][begin])).documents[in_shard[begin:end]]
    return records
