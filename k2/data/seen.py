"""What training has seen: from a step to its documents, and from a document to its steps.

Enters a run directory and its facts; leaves one `Sight` a document and row. Only the accepted lineage counts: steps
that were trained and still stand. A skipped step has seen nothing, and what a rollback threw away is not counted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from k2.data.chunk import Span, read_index, spans
from k2.data.encode import encoded_documents
from k2.data.order import chunk_of_step, effective_order, is_skipped, skipped_ranges, step_of_row
from k2.recipe.schema import Recipe, Stage
from k2.run.layout import RunLayout
from k2.run.ledger import Fact
from k2.run.records import accepted_records


@dataclass(frozen=True)
class Sight:
    """Tokens `token_start` to `token_end` (exclusive) of a document, trained in one row of a step.

    `row` counts in the chunk; the tokens are the document's as encoded, `</s>` and fill-in-the-middle included.
    """

    stage: str
    step: int
    row: int
    chunk: int
    position: int
    subset: str
    document: str
    token_start: int
    token_end: int
    row_start: int
    row_end: int


def seen_by_step(recipe: Recipe, layout: RunLayout, facts: Sequence[Fact], stage: Stage, step: int) -> Iterator[Sight]:
    """What the step was trained on, row by row; nothing when it was not trained."""
    seat = chunk_of_step(stage, effective_order(stage, facts), step)
    if step not in trained_steps(layout, facts, stage):
        return
    index = read_index(layout, stage.name, seat.chunk)
    first, last = np.searchsorted(index[:, 0], [seat.first_row, seat.first_row + seat.count])
    names = _Names(recipe, layout)
    for span in spans(index[first:last]):
        yield _sight(stage, seat.position, seat.chunk, span, recipe.data.subsets[span.subset].name, names.of(span))


def steps_of_document(recipe: Recipe, layout: RunLayout, facts: Sequence[Fact], document: str) -> Iterator[Sight]:
    """Every time the document was trained on, by stage, then by step. `ValueError` when it is in no subset."""
    subset, number = find_document(recipe, layout, document)
    for stage in recipe.stages:
        if recipe.data.subsets[subset].name in {entry.subset for entry in stage.mix}:
            yield from _steps_of(recipe, layout, facts, stage, subset, number, document)


def find_document(recipe: Recipe, layout: RunLayout, document: str) -> tuple[int, int]:
    """The subset's and the document's number."""
    for subset, named in enumerate(recipe.data.subsets):
        for encoded in encoded_documents(layout, named.name):
            if encoded.id == document:
                return subset, encoded.document
    raise ValueError(
        f"no document {document!r} is trained on in {layout.root}: it is unknown, was dropped, or is held out ({layout.held_out.name})"
    )


def trained_steps(layout: RunLayout, facts: Sequence[Fact], stage: Stage) -> set[int]:
    """The steps of the stage's accepted lineage."""
    skipped = skipped_ranges(stage.name, facts)
    return {record.step for record in accepted_records(layout, list(facts), stage.name) if not is_skipped(record.step, skipped)}


def _steps_of(
    recipe: Recipe, layout: RunLayout, facts: Sequence[Fact], stage: Stage, subset: int, number: int, document: str
) -> Iterator[Sight]:
    trained = trained_steps(layout, facts, stage)
    for position, chunk in enumerate(effective_order(stage, facts)):
        index = read_index(layout, stage.name, chunk)
        for span in spans(index[(index[:, 1] == subset) & (index[:, 2] == number)]):
            if step_of_row(stage, position, span.row) in trained:
                yield _sight(stage, position, chunk, span, recipe.data.subsets[subset].name, document)


def _sight(stage: Stage, position: int, chunk: int, span: Span, subset: str, document: str) -> Sight:
    return Sight(
        stage=stage.name,
        step=step_of_row(stage, position, span.row),
        row=span.row,
        chunk=chunk,
        position=position,
        subset=subset,
        document=document,
        token_start=span.token_start,
        token_end=span.token_end,
        row_start=span.row_start,
        row_end=span.row_end,
    )


class _Names:
    """The ids of documents by their numbers, a subset's read when it is first asked for."""

    def __init__(self, recipe: Recipe, layout: RunLayout) -> None:
        self._recipe, self._layout = recipe, layout
        self._ids: dict[int, list[str]] = {}

    def of(self, span: Span) -> str:
        if span.subset not in self._ids:
            self._ids[span.subset] = [d.id for d in encoded_documents(self._layout, self._recipe.data.subsets[span.subset].name)]
        return self._ids[span.subset][span.document]
