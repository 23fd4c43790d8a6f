"""Imported rows: what stands in for the streams that a build would have encoded.

A subset's rows of one chunk are a shard without tokens, which the chunk holds: each row is a document with an id (the
SHA-256 of its bytes), the file and the place in it that the row came from, and the row of the chunk that it is.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from k2.data.encode import EncodedShard
from k2.data.foreign import RowBlock
from k2.data.shard import DOCUMENT, DOCUMENTS, ENDS, ShardFacts, sort_ids
from k2.run.durable import durable_folder
from k2.run.layout import RunLayout
from k2.run.receipt import Receipt, find_receipt, now, read_receipt, seal_folder

_ROWS = "rows.npy"


@dataclass
class Columns:
    """A chunk's rows of one subset: what its shard will say of them. `new_files` had no row of the subset before."""

    records: list[npt.NDArray[np.void]] = field(default_factory=list)
    rows: list[npt.NDArray[np.int32]] = field(default_factory=list)
    new_files: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(len(rows) for rows in self.rows)

    def add(self, rows: npt.NDArray[np.int64], block: RowBlock, there: list[int], files: dict[str, int]) -> None:
        """These rows of the chunk, which stand at `there` in the block. `files` numbers the subset's files, and learns new ones."""
        for number in there:
            if block.files[number] not in files:
                files[block.files[number]] = len(files)
                self.new_files.append(block.files[number])
        records = np.zeros(len(there), DOCUMENT)
        digests = b"".join(hashlib.sha256(block.rows[number].tobytes()).digest()[:12] for number in there)  # 96 bits, as of a text
        words = np.frombuffer(digests, [("high", ">u8"), ("low", ">u4")])
        records["high"], records["low"] = words["high"], words["low"]
        records["file"] = [files[block.files[number]] for number in there]
        records["position"] = [block.positions[number] for number in there]
        self.records.append(records)
        self.rows.append(rows.astype("<i4"))


@dataclass
class ImportedSubset:
    """What was imported of a subset so far."""

    shards: list[EncodedShard] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)

    @property
    def documents(self) -> int:
        return sum(shard.facts.documents for shard in self.shards)

    def take_up(self, layout: RunLayout, name: str) -> None:
        """Note the next shard, which a chunk has just committed, or an earlier import."""
        receipt = read_receipt(layout.shard(name, len(self.shards)))
        for file in receipt.facts["made_from"]["new_files"]:
            self.files.setdefault(file, len(self.files))
        self.shards.append(EncodedShard(name, len(self.shards), receipt.digest, ShardFacts(**receipt.facts["counts"])))


def is_imported(layout: RunLayout) -> bool:
    """Whether the chunks were imported, so that no arithmetic says what sits where."""
    receipt = find_receipt(layout.all_chunks)
    return receipt is not None and "imported" in receipt.facts


def imported_files(layout: RunLayout, subset: str) -> list[str]:
    """The names of the files that the subset's rows came from."""
    with (layout.sources / f"{subset}.files.jsonl").open("rb") as lines:
        return [json.loads(line)["name"] for line in lines]


def imported_place(layout: RunLayout, subset: str, shard: int, document: int) -> tuple[str, int, int]:
    """The stage, the chunk and the row of a shard's document."""
    folder = layout.shard(subset, shard)
    made_from = read_receipt(folder).facts["made_from"]
    return made_from["stage"], made_from["chunk"], int(np.load(folder / _ROWS, mmap_mode="r", allow_pickle=False)[document])


def write_shard(layout: RunLayout, recipe: str, name: str, number: int, columns: Columns, made_from: dict[str, Any]) -> None:
    """The chunk's rows as a shard of the subset. The same rows as before, if it is there already."""
    target, count, context = layout.shard(name, number), columns.count, made_from["context"]
    if find_receipt(target) is not None:
        return
    facts = ShardFacts(count, count * context, 0, 0, {"plain": count}, {})
    with durable_folder(target) as folder:
        np.save(folder / DOCUMENTS, np.concatenate(columns.records))
        np.save(folder / ENDS, np.arange(1, count + 1, dtype="<i8") * context)
        np.save(folder / _ROWS, np.concatenate(columns.rows))
        sort_ids(folder)
        seal_folder(
            folder,
            Receipt(
                kind="shard",
                name=f"{name}/{number:05d}",
                recipe=recipe,
                made_at=now(),
                facts={"made_from": {**made_from, "new_files": columns.new_files}, "counts": asdict(facts)},
            ),
        )
