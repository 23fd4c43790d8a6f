"""Exporting chunks: to K2's published JSONL, or to Megatron's indexed format.

Enters a prepared run; leaves `<out>/<stage>/chunk_NNN.jsonl`, or `.bin` with `.idx`, each with its receipt beside it,
which names the chunk that it was made from. Rows stand in the chunk's order. A chunk is read and written a block of rows
at a time, so memory does not grow with it; one that has its receipt is not written again, so a killed export goes on.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from k2.data.chunk import chunk_name, chunk_receipt, open_rows, read_index, spans
from k2.data.document import DataError
from k2.data.freeze import frozen
from k2.data.imported import imported_files, is_imported
from k2.data.k2_jsonl import PublishedRow
from k2.data.megatron import write_rows
from k2.data.stream import Stream
from k2.recipe.place import Place
from k2.recipe.schema import Recipe, Stage
from k2.run.durable import durable_file
from k2.run.layout import RunLayout
from k2.run.receipt import Receipt, digest_files, find_receipt, now, read_receipt, write_receipt

Format = Literal["jsonl", "megatron"]
_SUFFIXES: dict[Format, tuple[str, ...]] = {"jsonl": (".jsonl",), "megatron": (".bin", ".idx")}
_BLOCK_TOKENS = 1 << 22


@dataclass(frozen=True)
class Export:
    """What is exported, and where to."""

    recipe: Recipe
    place: Place
    layout: RunLayout
    format: Format
    out: Path


def export_chunks(export: Export, stage: Stage, chunks: list[int], progress: Callable[[str], None]) -> Iterator[Receipt]:
    """Write these chunks of the stage, and give each one's receipt. `BrokenOutput` for a chunk that is not what its receipt says."""
    sources = _Sources(export)
    for number, chunk in enumerate(chunks):
        yield _find_or_write(export, stage, chunk, sources)
        progress(f"exported {chunk_name(stage.name, chunk)}, {number + 1} of {len(chunks)}")


def _find_or_write(export: Export, stage: Stage, chunk: int, sources: "_Sources") -> Receipt:
    name = chunk_name(stage.name, chunk)
    made_from = read_receipt(chunk_receipt(export.layout, stage.name, chunk))
    target = export.out / stage.name / f"chunk_{chunk:03d}.json"
    done = find_receipt(target)
    if done is None:
        return _write(export, stage, chunk, sources, made_from, target)
    if done.inputs != {name: made_from.digest} or done.facts["format"] != export.format:
        raise DataError(f"{target} is of another export ({done.facts.get('format')} of {done.inputs}): give --out a folder of its own")
    return done


def _write(export: Export, stage: Stage, chunk: int, sources: "_Sources", made_from: Receipt, target: Path) -> Receipt:
    rows = open_rows(export.layout, stage, chunk)
    files = [target.with_suffix(suffix) for suffix in _SUFFIXES[export.format]]
    with ExitStack() as stack:
        beside = [stack.enter_context(durable_file(file)) for file in files]
        if export.format == "jsonl":
            _write_jsonl(beside[0], export, stage, chunk, rows, sources)
        else:
            write_rows(beside[0], beside[1], _blocks(rows), *rows.shape)
    facts = {
        "format": export.format,
        "rows": len(rows),
        "context": stage.context,
        "tokens": rows.size,
        "subsets": made_from.facts["subsets"],
    }
    receipt = Receipt(
        kind="chunk_export",
        name=made_from.name,
        recipe=made_from.recipe,
        made_at=now(),
        inputs={made_from.name: made_from.digest},
        facts=facts,
        files=digest_files(target.parent, files),
    )
    return write_receipt(target, receipt)


def _write_jsonl(path: Path, export: Export, stage: Stage, chunk: int, rows: npt.NDArray[np.uint16], sources: "_Sources") -> None:
    """Each row with the file and the position of its first document."""
    firsts = (next(entries) for _, entries in groupby(spans(read_index(export.layout, stage.name, chunk)), key=lambda span: span.row))
    with path.open("wb") as file:
        for row, first in zip(rows, firsts, strict=True):
            subset = export.recipe.data.subsets[first.subset].name
            file.write(PublishedRow(row, subset, subset, *sources.of(subset, first.document)).line())


def _blocks(rows: npt.NDArray[np.uint16]) -> Iterator[npt.NDArray[np.uint16]]:
    step = max(1, _BLOCK_TOKENS // rows.shape[1])
    return (rows[first : first + step] for first in range(0, len(rows), step))


class _Sources:
    """Where documents were found, by subset and number."""

    def __init__(self, export: Export) -> None:
        self._export = export
        self._subsets: dict[str, tuple[Stream, list[str]]] = {}

    def of(self, subset: str, document: int) -> tuple[str, int]:
        """The file's name, and the document's position in it."""
        if subset not in self._subsets:
            self._subsets[subset] = Stream(self._export.layout, subset), self._files(subset)
        stream, names = self._subsets[subset]
        found = stream.document(document)
        return names[found.file], found.position

    def _files(self, subset: str) -> list[str]:
        layout = self._export.layout
        if is_imported(layout):
            return imported_files(layout, subset)
        [declared] = [one for one in self._export.recipe.data.subsets if one.name == subset]
        return [file.name for file in frozen(self._export.place, layout, declared).files]
