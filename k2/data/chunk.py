"""Chunks: the files that are trained on, one a checkpoint, each committed by itself.

Enters the encoded streams and a stage's `Plan`; leaves for each chunk its rows (uint16, samples x context), an index
that leads from a row to its documents, and a receipt written last. A killed build goes on at the first
chunk without a receipt and gives the same bytes.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from k2.data.encode import Stream
from k2.data.mix import Plan, samples_of_chunk
from k2.data.permutation import permutation_of_chunk
from k2.recipe.load import digest
from k2.recipe.schema import Recipe, Stage
from k2.run.durable import write_durably
from k2.run.layout import RunLayout
from k2.run.receipt import RECEIPT, BrokenOutput, Receipt, check_files, digest_files, find_receipt, now, read_receipt, write_receipt


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


def chunk_name(stage: str, chunk: int) -> str:
    """What receipts call a chunk."""
    return f"{stage}/chunk_{chunk:03d}"


def build_chunk(
    recipe: Recipe, layout: RunLayout, stage: Stage, chunk: int, plan: Plan, streams: Mapping[str, Stream], inputs: dict[str, str]
) -> Receipt:
    """Write one chunk of the stage, or give the receipt of the earlier time."""
    done = find_receipt(chunk_receipt(layout, stage.name, chunk))
    if done is not None:
        return done
    seats = _seats(recipe, stage, chunk, plan)
    rows, index = _fill(seats, [subset.name for subset in recipe.data.subsets], streams, stage.context)
    rows_file, index_file = layout.chunk(stage.name, chunk), layout.chunk_index(stage.name, chunk)
    write_durably(rows_file, rows.tobytes())
    write_durably(index_file, _npy(index))
    facts = {
        "stage": stage.name,
        "chunk": chunk,
        "samples": len(rows),
        "context": stage.context,
        "tokens": rows.size,
        "subsets": {share.subset: share.per_chunk[chunk] for share in plan.shares},
    }
    receipt = Receipt(kind="chunk", name=chunk_name(stage.name, chunk), recipe=digest(recipe), made_at=now(), inputs=inputs, facts=facts)
    files = digest_files(rows_file.parent, [rows_file, index_file])
    return write_receipt(chunk_receipt(layout, stage.name, chunk), receipt.model_copy(update={"files": files}))


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


def _seats(recipe: Recipe, stage: Stage, chunk: int, plan: Plan) -> npt.NDArray[np.int64]:
    """(subset, sample) of each row of the chunk, in a seeded permutation."""
    numbers = {subset.name: number for number, subset in enumerate(recipe.data.subsets)}
    parts = []
    for share in plan.shares:
        samples = samples_of_chunk(share, stage.chunks, chunk)
        parts.append(np.stack([np.full_like(samples, numbers[share.subset]), samples], axis=1))
    seats = np.concatenate(parts)
    return seats[permutation_of_chunk(recipe.seed, stage.name, chunk, len(seats)).whole()]


def _fill(
    seats: npt.NDArray[np.int64], subsets: list[str], streams: Mapping[str, Stream], context: int
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int32]]:
    """The rows of the seats and the index over them."""
    rows = np.empty((len(seats), context), dtype="<u2")
    entries = []
    for number in np.unique(seats[:, 0]):
        stream = streams[subsets[number]]
        seated = np.flatnonzero(seats[:, 0] == number)
        samples = seats[seated, 1]
        whole = len(stream.tokens) // context * context
        rows[seated] = stream.tokens[:whole].reshape(-1, context)[samples]
        entries.append(_index(int(number), seated, samples * context, context, stream.starts))
    index = np.concatenate(entries)
    return rows, index[np.lexsort((index[:, 4], index[:, 0]))].astype(np.int32)


def _index(
    subset: int, rows: npt.NDArray[np.int64], begins: npt.NDArray[np.int64], context: int, starts: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The index entries of rows that begin at these places of a stream: one a document that the row touches."""
    first = np.searchsorted(starts, begins, side="right") - 1
    last = np.searchsorted(starts, begins + context, side="left") - 1
    touched = last - first + 1
    row_of = np.repeat(np.arange(len(rows)), touched)
    before = np.repeat(np.cumsum(touched) - touched, touched)
    document = first[row_of] + np.arange(touched.sum()) - before
    begin, end = begins[row_of], begins[row_of] + context
    start = np.maximum(starts[document], begin)
    stop = np.minimum(starts[document + 1], end)
    return np.stack([rows[row_of], np.full_like(document, subset), document, start - starts[document], start - begin, stop - begin], axis=1)


def _npy(array: npt.NDArray[np.int32]) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()
