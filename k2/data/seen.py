"""What training has seen: from a step to its documents, and from a document to its steps.

Enters a run directory and the lineage in question; leaves one `Sight` a document and row. A skipped step has seen
nothing, and what a rollback gave up counts only for who asks for that attempt. A document is not searched for: the
stream says which samples hold it, arithmetic where these sit (`seats`), and the chunk's index confirms each row. A run that
was restored has no streams: its chunks tell themselves which documents they hold (`provenance`).
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from k2.data.branches import Branch, Lineage, lineage_of, seen_until, single_branch
from k2.data.chunk import Span, chunk_name, read_index, spans
from k2.data.imported import imported_place, is_imported
from k2.data.mix import plan_mix
from k2.data.order import step_of_row
from k2.data.provenance import ChunkDocuments
from k2.data.seats import Place, Seats
from k2.data.stream import Stream, find_documents, open_streams
from k2.recipe.schema import Recipe, Stage
from k2.run.layout import RunLayout
from k2.run.ledger import Fact
from k2.run.receipt import BrokenOutput

Lineages = Mapping[str, Lineage]  # by the name of the stage


@dataclass(frozen=True)
class Sight:
    """Tokens `token_start` to `token_end` (exclusive) of a document, trained in one row of a step.

    `row` counts in the chunk; the tokens are the document's as encoded, `</s>` and fill-in-the-middle included. `attempt`
    trained it; `times` is 2 where the row also stood in for a skipped one.
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
    attempt: int
    times: int


def accepted(recipe: Recipe, layout: RunLayout, facts: Sequence[Fact], checkpoint: str | None = None) -> Lineages:
    """What counts as seen: by the run as it stands, or by one of its checkpoints."""
    until = {stage.name: stage.steps for stage in recipe.stages} if checkpoint is None else seen_until(recipe, layout, checkpoint)
    return {stage.name: lineage_of(layout, facts, stage, until[stage.name]) for stage in recipe.stages}


def attempted(recipe: Recipe, layout: RunLayout, facts: Sequence[Fact], attempt: int) -> Lineages:
    """What one attempt has seen, given up or not. `ValueError` when there was none of that number."""
    found = {stage.name: single_branch(layout, facts, stage, attempt) for stage in recipe.stages}
    lineages = {stage: lineage for stage, lineage in found.items() if lineage is not None}
    if not lineages:
        raise ValueError(f"{layout.root} had no attempt {attempt}: `k2 data order` lists them")
    return lineages


def seen_by_step(recipe: Recipe, layout: RunLayout, lineages: Lineages, stage: Stage, step: int) -> Iterator[Sight]:
    """What the step was trained on, row by row; nothing when it was not trained."""
    branch = lineages[stage.name].branch_of(step) if stage.name in lineages else None
    if branch is None:
        _check_step(stage, step)
        return
    seat, rows = branch.sequence.seat(step), branch.sequence.rows(step)
    times = Counter(range(rows.start, rows.stop) if isinstance(rows, slice) else rows)
    index = read_index(layout, stage.name, seat.chunk)
    id_of = _ids(recipe, layout, stage, seat.chunk)
    for span in spans(index[_entries(index, seat.first_row, seat.first_row + seat.count)]):
        if times[span.row]:
            subset = recipe.data.subsets[span.subset].name
            yield _sight(branch, seat.position, span, subset, id_of(span.subset, span.document), times[span.row])


def steps_of_document(recipe: Recipe, layout: RunLayout, lineages: Lineages, document: str) -> Iterator[Sight]:
    """Every time the document was trained on, by stage, then by step. `ValueError` when it is in no subset."""
    restored = not all(layout.stream(subset.name).is_dir() for subset in recipe.data.subsets)
    found = _told_documents(recipe, layout, document) if restored else find_documents(recipe, layout, document)
    if not found:
        raise ValueError(
            f"no document {document!r} is trained on in {layout.root}: it is unknown, was dropped, or is held out ({layout.held_out.name})"
        )
    for stage in recipe.stages:
        mixed = {entry.subset for entry in stage.mix}
        steps_of = _told_steps if restored else _steps_of
        sights = [
            sight
            for subset, number in found
            if stage.name in lineages and lineages[stage.name].branches and subset in mixed
            for sight in steps_of(recipe, layout, lineages[stage.name], subset, number, document)
        ]
        yield from sorted(sights, key=lambda sight: (sight.step, sight.row, sight.row_start))


def seats_of(recipe: Recipe, layout: RunLayout, stage: Stage) -> Seats:
    """Where every sample of the stage sits."""
    samples = {entry.subset: Stream(layout, entry.subset).num_tokens // stage.context for entry in stage.mix}
    return Seats(recipe, stage, plan_mix(stage, samples))


def spans_of_row(layout: RunLayout, stage: Stage, chunk: int, row: int) -> list[Span]:
    """The documents in a row, in the order in which they lie there, as the chunk's index has them."""
    index = read_index(layout, stage.name, chunk)
    return list(spans(index[_entries(index, row, row + 1)]))


def _steps_of(recipe: Recipe, layout: RunLayout, lineage: Lineage, subset: str, number: int, document: str) -> Iterator[Sight]:
    stage = lineage.now.stage
    for chunk, places in groupby(_places(recipe, layout, stage, subset, number), key=lambda place: place.chunk):
        index = read_index(layout, stage.name, chunk)
        for place in places:
            span = _confirmed(recipe, stage, place, index, subset, number)
            for branch, position, times in _trainings(lineage, place):
                yield _sight(branch, position, span, subset, document, times)


def _told_documents(recipe: Recipe, layout: RunLayout, document: str) -> list[tuple[str, int]]:
    """Subset and number of the document of that id, from what every chunk tells of itself."""
    found = {place for stage in recipe.stages for told in _told(layout, stage).values() for place in told.find(document)}
    return [(recipe.data.subsets[subset].name, number) for subset, number in sorted(found)]


def _told_steps(recipe: Recipe, layout: RunLayout, lineage: Lineage, subset: str, number: int, document: str) -> Iterator[Sight]:
    """As `_steps_of`, where no stream says which samples hold the document: the index of each chunk that has it is looked through."""
    stage = lineage.now.stage
    for chunk, told in _told(layout, stage).items():
        numbers = {found for of_subset, found in told.find(document) if recipe.data.subsets[of_subset].name == subset}
        index = read_index(layout, stage.name, chunk) if number in numbers else np.empty((0, 6), np.int32)
        for span in spans(index[index[:, 2] == number]):
            if recipe.data.subsets[span.subset].name == subset:
                for branch, position, times in _trainings(lineage, Place(chunk, span.row, number)):
                    yield _sight(branch, position, span, subset, document, times)


def _told(layout: RunLayout, stage: Stage) -> dict[int, ChunkDocuments]:
    """The chunks that are here and tell which documents they hold."""
    paths = {chunk: layout.chunk_documents(stage.name, chunk) for chunk in range(stage.chunks)}
    return {chunk: ChunkDocuments(path) for chunk, path in paths.items() if path.is_file()}


def _ids(recipe: Recipe, layout: RunLayout, stage: Stage, chunk: int) -> Callable[[int, int], str]:
    """From a subset and a document's number in it to its id: as the chunk tells it, or else as the streams do."""
    told = layout.chunk_documents(stage.name, chunk)
    if told.is_file():
        return ChunkDocuments(told).id_of
    streams = open_streams(recipe, layout)
    return lambda subset, document: streams[recipe.data.subsets[subset].name].document(document).id


def _places(recipe: Recipe, layout: RunLayout, stage: Stage, subset: str, number: int) -> list[Place]:
    """The rows that hold the document."""
    stream = Stream(layout, subset)
    there = stream.document(number)
    if is_imported(layout):
        [part] = stream.parts(there.token_start, there.token_end)
        name, chunk, row = imported_place(layout, subset, part.shard, number - part.document_offset)
        return [Place(chunk, row, number)] if name == stage.name else []
    seats = seats_of(recipe, layout, stage)
    end = min((there.token_end - 1) // stage.context + 1, seats.plan.share(subset).samples)
    return seats.of_samples(subset, range(there.token_start // stage.context, end))


def _trainings(lineage: Lineage, place: Place) -> Iterator[tuple[Branch, int, int]]:
    """By which branch, at which position and how often the row was trained."""
    for branch in lineage.branches:
        for position in branch.sequence.positions(place.chunk):
            step = step_of_row(lineage.now.stage, position, place.row)
            times = branch.sequence.times(position, place.row)
            if times and lineage.branch_of(step) is branch:
                yield branch, position, times


def _confirmed(recipe: Recipe, stage: Stage, place: Place, index: npt.NDArray[np.int32], subset: str, number: int) -> Span:
    """What the chunk's index says of the document in that row."""
    for span in spans(index[_entries(index, place.row, place.row + 1)]):
        if recipe.data.subsets[span.subset].name == subset and span.document == number:
            return span
    raise BrokenOutput(
        f"{chunk_name(stage.name, place.chunk)}: by its mix, row {place.row} holds document {number} of {subset}, which its index does "
        "not say; check it with `k2 data verify`"
    )


def _entries(index: npt.NDArray[np.int32], first_row: int, end_row: int) -> slice:
    """The entries of these rows. Halving touches 24 places of ten million; numpy's own search would copy the column first."""
    first, end = (bisect_left(index, row, key=lambda entry: int(entry[0])) for row in (first_row, end_row))
    return slice(first, end)


def _check_step(stage: Stage, step: int) -> None:
    if not 1 <= step <= stage.steps:
        raise ValueError(f"{stage.name} has no step {step}: its steps are 1 to {stage.steps}")


def _sight(branch: Branch, position: int, span: Span, subset: str, document: str, times: int) -> Sight:
    stage = branch.sequence.stage
    return Sight(
        stage=stage.name,
        step=step_of_row(stage, position, span.row),
        row=span.row,
        chunk=branch.sequence.order[position],
        position=position,
        subset=subset,
        document=document,
        token_start=span.token_start,
        token_end=span.token_end,
        row_start=span.row_start,
        row_end=span.row_end,
        attempt=branch.attempt,
        times=times,
    )
