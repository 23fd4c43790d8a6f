"""Importing chunks that are tokenized already: into a folder that a run can train on, with receipts.

Enters a recipe and a folder of K2's published JSONL or of Megatron's files, one a chunk; leaves what `k2 data build` leaves.
Rows stay in their order. Every row counts as one document of its subset: it has an id (of its bytes), the file and the
place it came from, and so `k2 data seen`, `mix`, `verify` and `export` answer for it; its tokens are stored in the chunk
alone. Chunk by chunk, each committed with its receipt: a killed import goes on, in memory that no chunk's size decides.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from k2.data.chunk import chunk_files, chunk_name, chunk_receipt
from k2.data.document import DataError
from k2.data.foreign import ForeignChunk, Format, RowBlock, find_chunk
from k2.data.imported import Columns, ImportedSubset, write_shard
from k2.data.provenance import SubsetDocuments, write_documents
from k2.data.resolve import write_stream
from k2.recipe.data import FileTokenizer
from k2.recipe.load import digest
from k2.recipe.place import Place
from k2.recipe.schema import Recipe, Stage
from k2.run.durable import durable_file, durable_folder, sweep
from k2.run.layout import RunLayout
from k2.run.receipt import RECEIPT, Receipt, digest_files, find_receipt, now, seal_folder, write_receipt
from k2.tokenizer import install_tokenizer


@dataclass(frozen=True)
class Import:
    """What is imported: `source` holds a file a chunk. `subset` names the rows of files that do not."""

    recipe: Recipe
    place: Place
    layout: RunLayout
    source: Path
    format: Format
    subset: str | None
    held_out: Path | None


def import_chunks(job: Import, progress: Callable[[str], None]) -> Receipt:
    """Import every chunk of the recipe; the receipt over all of them. What is there already is kept. Hold the run's lease."""
    recipe, layout = job.recipe, job.layout
    done = find_receipt(layout.all_chunks)
    if done is not None:
        return done
    if not isinstance(recipe.tokenizer, FileTokenizer):
        raise DataError('tokenizer.kind = "train": rows that are tokenized already need the tokenizer that made them: set kind = "file"')
    for folder in (layout.root, layout.tokens, *(layout.chunks(stage.name) for stage in recipe.stages)):
        sweep(folder)
    tokenizer = find_receipt(layout.tokenizer) or install_tokenizer(
        Path(job.place.data_dir) / recipe.tokenizer.path, layout.tokenizer, recipe.tokenizer, digest(recipe)
    )
    subsets = {subset.name: ImportedSubset() for subset in recipe.data.subsets}
    chunks: dict[str, Receipt] = {}
    for stage in recipe.stages:
        for chunk in range(stage.chunks):
            receipt = _find_or_import(job, stage, chunk, subsets)
            chunks[receipt.name] = receipt
            progress(f"imported {receipt.name}: {receipt.facts['samples']:,} rows, {receipt.facts['left_out']:,} beyond them left out")
    held_out = _keep_held_out(job)
    _write_sources(job, subsets)
    for subset in recipe.data.subsets:
        if find_receipt(layout.stream(subset.name)) is None:
            write_stream(recipe, layout, subset.model_copy(update={"duplicates": "keep"}), subsets[subset.name].shards, None, None)
    facts = {
        "imported": job.format,
        "stages": {stage.name: _stage_facts(stage, chunks) for stage in recipe.stages},
        "documents": sum(subset.documents for subset in subsets.values()),
        "held_out": held_out.facts["documents"],
    }
    inputs = {"tokenizer": tokenizer.digest, **{name: receipt.digest for name, receipt in sorted(chunks.items())}}
    over_all = Receipt(kind="chunks", name="chunks", recipe=digest(recipe), made_at=now(), inputs=inputs, facts=facts)
    return write_receipt(layout.all_chunks / RECEIPT, over_all)


def _find_or_import(job: Import, stage: Stage, chunk: int, subsets: dict[str, ImportedSubset]) -> Receipt:
    done = find_receipt(chunk_receipt(job.layout, stage.name, chunk))
    if done is None:
        path = find_chunk(job.source, stage.name, [one.name for one in job.recipe.stages], chunk, job.format)
        done = _import(job, stage, chunk, ForeignChunk(path, job.format, stage.context, job.subset), subsets)
    for name in done.facts["subsets"]:
        subsets[name].take_up(job.layout, name)
    return done


def _import(job: Import, stage: Stage, chunk: int, foreign: ForeignChunk, subsets: dict[str, ImportedSubset]) -> Receipt:
    """Write the chunk's rows, index and documents, its shards, and its receipt last."""
    layout, samples = job.layout, stage.samples_per_chunk
    writer = _ChunkWriter(job.recipe, stage, subsets)
    with ExitStack() as stack:
        rows, index, documents, files = (stack.enter_context(durable_file(path)) for path in chunk_files(layout, stage.name, chunk))
        left_out = writer.write(rows, index, foreign)
        write_documents(documents, files, list(writer.documents()))
    made_from = {"stage": stage.name, "chunk": chunk, "file": foreign.path.name}
    for name, columns in writer.columns.items():
        write_shard(layout, digest(job.recipe), name, len(subsets[name].shards), columns, {**made_from, "context": stage.context})
    facts = {
        "stage": stage.name,
        "chunk": chunk,
        "samples": samples,
        "context": stage.context,
        "tokens": samples * stage.context,
        "subsets": {name: columns.count for name, columns in sorted(writer.columns.items())},
        "left_out": left_out,
    }
    receipt = Receipt(
        kind="chunk",
        name=chunk_name(stage.name, chunk),
        recipe=digest(job.recipe),
        made_at=now(),
        inputs={foreign.path.name: foreign.digest()},
        facts=facts,
        files=digest_files(layout.chunks(stage.name), chunk_files(layout, stage.name, chunk)),
    )
    return write_receipt(chunk_receipt(layout, stage.name, chunk), receipt)


class _ChunkWriter:
    """Writes one chunk's rows, block by block, then its index; keeps what its shards need: about 60 bytes a row."""

    def __init__(self, recipe: Recipe, stage: Stage, subsets: dict[str, ImportedSubset]) -> None:
        self._stage, self._vocab_rows = stage, recipe.model.vocab_rows
        self._numbers = {subset.name: number for number, subset in enumerate(recipe.data.subsets)}
        self._mixed = {entry.subset for entry in stage.mix}
        self._files = {name: dict(subset.files) for name, subset in subsets.items()}
        self._before = {name: subset.documents for name, subset in subsets.items()}
        self._index = np.zeros((stage.samples_per_chunk, 6), "<i4")
        self.rows = 0
        self.columns: dict[str, Columns] = {}

    def write(self, rows_file: Path, index_file: Path, foreign: ForeignChunk) -> int:
        """Write the first rows that the chunk has room for; how many were left out."""
        left_out = 0
        with rows_file.open("wb") as rows:
            for block in foreign.blocks():
                room = min(len(block.rows), self._stage.samples_per_chunk - self.rows)
                left_out += len(block.rows) - room
                if room:
                    self._check(block, foreign.path)
                    rows.write(block.rows[:room].astype("<u2", copy=False).tobytes())
                    self._note(block, room, foreign.path)
        if self.rows < self._stage.samples_per_chunk:
            raise DataError(
                f"{foreign.path} has {self.rows} rows, but stages.{self._stage.name} needs {self._stage.samples_per_chunk} a chunk: "
                "lower its steps_per_chunk, or give more rows"
            )
        with index_file.open("wb") as index:
            np.save(index, self._index)
        return left_out

    def documents(self) -> Iterator[SubsetDocuments]:
        """Every row that was written, as a document of its subset."""
        for name in sorted(self.columns, key=self._numbers.__getitem__):
            first, columns = self._before[name], self.columns[name]
            numbers = np.arange(first, first + columns.count)
            yield SubsetDocuments(self._numbers[name], name, numbers, np.concatenate(columns.records), list(self._files[name]))

    def _check(self, block: RowBlock, path: Path) -> None:
        largest = int(block.rows.max())
        if largest >= self._vocab_rows:
            raise DataError(f"{path} holds the token id {largest}, but model.vocab_rows = {self._vocab_rows}: it is of another tokenizer")

    def _note(self, block: RowBlock, room: int, path: Path) -> None:
        """The index entries of the block's first `room` rows, and their part of each subset's columns."""
        declared = {named: self._declared(named, path) for named in set(block.subsets[:room])}
        of_row = np.array([self._numbers[declared[named]] for named in block.subsets[:room]])
        for name in sorted(set(declared.values())):
            there = np.flatnonzero(of_row == self._numbers[name])
            columns = self.columns.setdefault(name, Columns())
            first = self._before[name] + columns.count
            entries = self._index[self.rows + there]
            entries[:, 0], entries[:, 1], entries[:, 5] = self.rows + there, self._numbers[name], self._stage.context
            entries[:, 2] = np.arange(first, first + len(there))
            self._index[self.rows + there] = entries
            columns.add(there + self.rows, block, there.tolist(), self._files[name])
        self.rows += room

    def _declared(self, named: str, path: Path) -> str:
        """The recipe's subset of that published name: `starcoder.python.spm1.0` is of `starcoder`."""
        fit = [name for name in self._mixed if named == name or named.startswith(f"{name}.")]
        if not fit:
            raise DataError(
                f"{path} has rows of {named!r}, which stages.{self._stage.name}.mix does not name: {', '.join(sorted(self._mixed))}"
            )
        return max(fit, key=len)


def _keep_held_out(job: Import) -> Receipt:
    """The user's documents kept from training, for the evaluation; none when none were given."""
    target = job.layout.held_out.parent
    done = find_receipt(target)
    if done is not None:
        return done
    with durable_folder(target) as folder:
        content = b"" if job.held_out is None else job.held_out.read_bytes()
        (folder / job.layout.held_out.name).write_bytes(content)
        facts = {"documents": sum(1 for line in content.splitlines() if line.strip())}
        return seal_folder(folder, Receipt(kind="held_out", name="held_out", recipe=digest(job.recipe), made_at=now(), facts=facts))


def _write_sources(job: Import, subsets: dict[str, ImportedSubset]) -> None:
    if find_receipt(job.layout.sources) is not None:
        return
    with durable_folder(job.layout.sources) as folder:
        for name, subset in subsets.items():
            lines = (json.dumps({"name": file, "bytes": 0}, ensure_ascii=False) + "\n" for file in subset.files)
            (folder / f"{name}.files.jsonl").write_text("".join(lines), "utf-8")
        facts = {"imported": job.format, "subsets": {name: {"files": len(subset.files)} for name, subset in subsets.items()}}
        seal_folder(folder, Receipt(kind="sources", name="sources", recipe=digest(job.recipe), made_at=now(), facts=facts))


def _stage_facts(stage: Stage, chunks: dict[str, Receipt]) -> dict[str, Any]:
    """What the receipt over all chunks says of a stage, counted from its chunks."""
    counts = [chunks[chunk_name(stage.name, chunk)].facts["subsets"] for chunk in range(stage.chunks)]
    samples = stage.chunks * stage.samples_per_chunk
    per_subset = {entry: [count.get(entry.subset, 0) for count in counts] for entry in stage.mix}
    return {
        "samples": samples,
        "tokens": samples * stage.context,
        "remainder": {},
        "tail_tokens": {},
        "subsets": {
            entry.subset: {
                "repeat": entry.repeat,
                "samples": sum(there),
                "tokens": sum(there) * stage.context,
                "fraction": sum(there) / samples,
                "per_chunk_min": min(there),
                "per_chunk_max": max(there),
            }
            for entry, there in per_subset.items()
        },
    }
