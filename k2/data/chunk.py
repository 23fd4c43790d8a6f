"""Chunks: the files that are trained on, one a checkpoint, each committed by itself.

Enters the subsets' streams and a stage's `Plan`; leaves for each chunk its rows (uint16, samples x context), an index
that leads from a row to its documents, which documents these are (`provenance`), and a receipt written last. A killed
build goes on at the first chunk without a receipt and gives the same bytes. A chunk may be larger than memory: it is
filled in the order of the streams, so that every shard is read once and forward, a block of rows at a time.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from k2.data.mix import Plan, samples_of_chunk
from k2.data.pack import copy_tokens, entries_of, segments_of
from k2.data.permutation import permutation_of_chunk
from k2.data.provenance import documents_of_chunk, write_documents
from k2.data.stream import Stream
from k2.recipe.load import digest
from k2.recipe.schema import Recipe, Stage
from k2.run.durable import durable_file
from k2.run.layout import RunLayout
from k2.run.receipt import RECEIPT, BrokenOutput, Receipt, check_files, digest_files, find_receipt, now, read_receipt, write_receipt

_BLOCK_BYTES = 64 << 20  # of rows that are in memory


@dataclass(frozen=True)
class Span:
    """A part of one row: tokens `token_start` ... of a document's own tokens, at `row_start` to `row_end` of the row.

    One row of the index. `subset` counts in the recipe's order, `document` in its subset's stream.
    """

    row: int
    subset: int
    document: int
    token_start: int
    row_start: int
    row_end: int

    @property
    def token_end(self) -> int:
        return self.token_start + self.row_end - self.row_start


def chunk_receipt(layout: RunLayout, stage: str, chunk: int) -> Path:
    """Where a chunk's receipt lies: beside its rows."""
    return layout.chunk(stage, chunk).with_suffix(".json")


def chunk_files(layout: RunLayout, stage: str, chunk: int) -> tuple[Path, Path, Path, Path]:
    """A chunk's rows, their index, and which documents and files these are of."""
    names = (layout.chunk, layout.chunk_index, layout.chunk_documents, layout.chunk_files)
    rows, index, documents, files = (name(stage, chunk) for name in names)
    return rows, index, documents, files


def chunk_name(stage: str, chunk: int) -> str:
    """What receipts call a chunk."""
    return f"{stage}/chunk_{chunk:03d}"


@dataclass(frozen=True)
class BuildChunk:
    """The task: write that chunk of the stage. `inputs` are the digests of the streams it takes from."""

    root: Path
    recipe: Recipe
    stage: Stage
    chunk: int
    plan: Plan
    inputs: dict[str, str]


@dataclass(frozen=True)
class BuiltChunk:
    """What the task leaves."""

    name: str
    digest: str


def build_chunk(task: BuildChunk) -> BuiltChunk:
    """Write one chunk, or give what the earlier time left."""
    layout, stage, chunk = RunLayout(task.root), task.stage, task.chunk
    receipt = find_receipt(chunk_receipt(layout, stage.name, chunk)) or _write(task, layout)
    return BuiltChunk(receipt.name, receipt.digest)


def open_rows(layout: RunLayout, stage: Stage, chunk: int) -> npt.NDArray[np.uint16]:
    """A chunk's rows mapped into memory, after its size and digest were compared with its receipt. `BrokenOutput` otherwise."""
    receipt = read_receipt(chunk_receipt(layout, stage.name, chunk))
    folder = layout.chunks(stage.name)
    wrong = check_files(folder, receipt)
    if wrong:
        raise BrokenOutput(
            f"{chunk_name(stage.name, chunk)} in {folder} is damaged ({'; '.join(wrong)}): nothing is trained on it. "
            f"Remove {chunk_receipt(layout, stage.name, chunk).name} there and {layout.all_chunks / RECEIPT}, and prepare again: "
            "that makes the same bytes."
        )
    samples, context = receipt.facts["samples"], receipt.facts["context"]
    if (samples, context) != (stage.samples_per_chunk, stage.context):
        raise BrokenOutput(
            f"{chunk_name(stage.name, chunk)} holds {samples} samples of {context} tokens, but the recipe's {stage.name} "
            f"wants {stage.samples_per_chunk} of {stage.context}: it was made by another recipe; prepare again in another folder"
        )
    return map_rows(layout, stage, chunk)


def map_rows(layout: RunLayout, stage: Stage, chunk: int) -> npt.NDArray[np.uint16]:
    """A chunk's rows mapped into memory, as they are. `BrokenOutput` when the file is too short or is gone."""
    path, shape = layout.chunk(stage.name, chunk), (stage.samples_per_chunk, stage.context)
    try:
        return np.memmap(path, dtype="<u2", mode="r", shape=shape)
    except (OSError, ValueError) as error:
        raise BrokenOutput(f"{path} does not hold {shape[0]} rows of {shape[1]} tokens ({error}): prepare the data again") from error


def read_index(layout: RunLayout, stage: str, chunk: int) -> npt.NDArray[np.int32]:
    """The chunk's index, ordered by row and place in it; the columns are `Span`'s fields."""
    index: npt.NDArray[np.int32] = np.load(layout.chunk_index(stage, chunk), mmap_mode="r", allow_pickle=False)
    return index


def spans(index: npt.NDArray[np.int32]) -> Iterator[Span]:
    """The rows of an index as values."""
    return (Span(*map(int, entry)) for entry in index)


def _write(task: BuildChunk, layout: RunLayout) -> Receipt:
    stage, chunk = task.stage, task.chunk
    seats = _seats(task.recipe, stage, chunk, task.plan)
    with ExitStack() as stack:
        rows, index, documents, files = (stack.enter_context(durable_file(path)) for path in chunk_files(layout, stage.name, chunk))
        entries = _fill(rows, seats, [subset.name for subset in task.recipe.data.subsets], layout, stage.context)
        with index.open("wb") as file:
            np.save(file, entries)
        write_documents(documents, files, list(documents_of_chunk(task.recipe, layout, entries)))
    facts = {
        "stage": stage.name,
        "chunk": chunk,
        "samples": len(seats),
        "context": stage.context,
        "tokens": len(seats) * stage.context,
        "subsets": {share.subset: share.per_chunk[chunk] for share in task.plan.shares},
    }
    name, recipe = chunk_name(stage.name, chunk), digest(task.recipe)
    receipt = Receipt(kind="chunk", name=name, recipe=recipe, made_at=now(), inputs=task.inputs, facts=facts)
    digests = digest_files(layout.chunks(stage.name), chunk_files(layout, stage.name, chunk))
    return write_receipt(chunk_receipt(layout, stage.name, chunk), receipt.model_copy(update={"files": digests}))


def _seats(recipe: Recipe, stage: Stage, chunk: int, plan: Plan) -> npt.NDArray[np.int64]:
    """(subset, sample) of each row of the chunk, in a seeded permutation."""
    numbers = {subset.name: number for number, subset in enumerate(recipe.data.subsets)}
    parts = []
    for share in plan.shares:
        samples = samples_of_chunk(share, stage.chunks, chunk)
        parts.append(np.stack([np.full_like(samples, numbers[share.subset]), samples], axis=1))
    seats = np.concatenate(parts)
    return seats[permutation_of_chunk(recipe.seed, stage.name, chunk, len(seats)).whole()]


def _fill(path: Path, seats: npt.NDArray[np.int64], subsets: list[str], layout: RunLayout, context: int) -> npt.NDArray[np.int32]:
    """Write the rows of the seats; the index over them, ordered by row and place in it."""
    entries = []
    with path.open("wb") as file:
        file.truncate(len(seats) * context * 2)
    for number in np.unique(seats[:, 0]):
        stream = Stream(layout, subsets[number])
        seated = np.flatnonzero(seats[:, 0] == number)
        seated = seated[np.argsort(seats[seated, 1], kind="stable")]
        for first in range(0, len(seated), max(1, _BLOCK_BYTES // (2 * context))):
            block = seated[first : first + max(1, _BLOCK_BYTES // (2 * context))]
            samples = np.empty((len(block), context), "<u2")
            for segments in segments_of(stream, seats[block, 1] * context, context):
                shard = stream.shard(segments.shard)
                copy_tokens(shard, segments, samples)
                entries.append(entries_of(shard, segments, block, int(number)))
            rows = np.memmap(path, dtype="<u2", mode="r+", shape=(len(seats), context))
            rows[block] = samples
            del rows  # what was written need not stay mapped
    index = np.concatenate(entries)
    return index[np.lexsort((index[:, 4], index[:, 0]))]
