"""Deriving rows anew from the raw text: the proof that a step trained on what its sources say.

Enters a prepared run and a step; leaves what differs. Each row's sample follows from the mix and the chunk's permutation, its
documents from the stream; their text is read again from the files where it lies, encoded, rearranged and packed, and
the ids are compared with the chunk's bytes, the spans with its index. Nothing that a build left beside the chunk is taken
for granted but where each document begins, and that is compared too.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from pydantic import BaseModel, ConfigDict

from k2.data.branches import branches_of
from k2.data.chunk import Span, chunk_name, map_rows
from k2.data.document import DataError
from k2.data.encode import document_tokens
from k2.data.freeze import Frozen, frozen
from k2.data.imported import is_imported
from k2.data.order import Sequence, sequence_of
from k2.data.seen import seats_of, spans_of_row
from k2.data.stream import Stream, StreamDocument, read_document
from k2.recipe.place import Place
from k2.recipe.schema import Recipe, Stage
from k2.run.layout import RunLayout
from k2.run.ledger import Fact
from k2.run.receipt import BrokenOutput
from k2.tokenizer import Tokenizer


class Derivation(BaseModel):
    """What was derived anew, and what does not agree: one line a fault."""

    model_config = ConfigDict(frozen=True)

    steps: tuple[str, ...]
    rows: int
    documents: int
    bad: tuple[str, ...]


@dataclass(frozen=True)
class _Subset:
    """A subset with what its documents are made from."""

    number: int
    stream: Stream
    frozen: Frozen


@dataclass
class Deriver:
    """Derives steps of one run. Counts what it has done."""

    recipe: Recipe
    place: Place
    layout: RunLayout
    rows: int = 0
    documents: int = 0
    _subsets: dict[str, _Subset] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._tokenizer = Tokenizer(self.layout.tokenizer)

    def faults(self, sequence: Sequence, step: int) -> Iterator[str]:
        """What differs in the step's rows: one line each."""
        stage, seat, rows = sequence.stage, sequence.seat(step), sequence.rows(step)
        wanted = sorted(set(range(rows.start, rows.stop) if isinstance(rows, slice) else rows))
        chunk = map_rows(self.layout, stage, seat.chunk)
        for row, (subset, sample) in zip(wanted, seats_of(self.recipe, self.layout, stage).of_rows(seat.chunk, wanted), strict=True):
            where = f"{stage.name} step {step}, row {row} of {chunk_name(stage.name, seat.chunk)}"
            self.rows += 1
            try:
                derived, spans = self._row(subset, row, sample, stage)
            except (DataError, OSError) as error:
                yield f"{where}: its text cannot be had again: {error}"
                continue
            different = np.flatnonzero(derived != chunk[row])
            if different.size:
                yield f"{where}: {different.size} of {stage.context} token ids differ from its text's, the first at {different[0]}"
            if spans != spans_of_row(self.layout, stage, seat.chunk, row):
                yield f"{where}: the index leads to other documents than {subset}'s sample {sample} holds"

    def _row(self, subset: str, row: int, sample: int, stage: Stage) -> tuple[np.ndarray[tuple[int], np.dtype[np.uint16]], list[Span]]:
        """The sample's ids, and its part of the index."""
        source = self._subset(subset)
        begin, end = sample * stage.context, (sample + 1) * stage.context
        ids, spans = np.zeros(stage.context, np.uint16), []
        for document in source.stream.documents(begin, end):
            tokens = self._tokens(subset, document)
            first, last = max(begin, document.token_start), min(end, document.token_end)
            ids[first - begin : last - begin] = tokens[first - document.token_start : last - document.token_start]
            spans.append(Span(row, source.number, document.number, first - document.token_start, first - begin, last - begin))
        return ids, spans

    def _tokens(self, subset: str, document: StreamDocument) -> list[int]:
        source = self._subset(subset)
        again = read_document(source.frozen, subset, document)
        tokens = document_tokens(self._tokenizer, self.recipe, self.recipe.data.subsets[source.number], again)
        self.documents += 1
        if len(tokens) != document.token_end - document.token_start:
            raise DataError(
                f"document {document.id} has {len(tokens)} tokens, its stream gives it {document.token_end - document.token_start}"
            )
        return tokens

    def _subset(self, name: str) -> _Subset:
        if name not in self._subsets:
            number = [subset.name for subset in self.recipe.data.subsets].index(name)
            here = frozen(self.place, self.layout, self.recipe.data.subsets[number])
            self._subsets[name] = _Subset(number, Stream(self.layout, name), here)
        return self._subsets[name]


def derive(recipe: Recipe, place: Place, layout: RunLayout, facts: list[Fact], steps: list[tuple[str, int]]) -> Derivation:
    """Derive these steps (stage and step) anew, each in the sequence in which it was last trained, or would be."""
    if is_imported(layout):
        raise DataError(f"the rows in {layout.root} were imported, there is no text to derive them from; leave out --steps and --step")
    deriver = Deriver(recipe, place, layout)
    bad: list[str] = []
    for name, step in steps:
        stage = recipe.stage(name)
        trained = [branch.sequence for branch in branches_of(layout, facts, stage) if branch.trained(step)]
        try:
            bad += deriver.faults(trained[-1] if trained else sequence_of(stage, facts), step)
        except BrokenOutput as error:
            bad.append(str(error))
    return Derivation(steps=tuple(f"{name} {step}" for name, step in steps), rows=deriver.rows, documents=deriver.documents, bad=tuple(bad))


def some_steps(recipe: Recipe, facts: list[Fact], count: int, seed: int) -> list[tuple[str, int]]:
    """So many steps of all stages, drawn without those that the ledger skips. The same seed draws the same."""
    sequences = {stage.name: sequence_of(stage, facts) for stage in recipe.stages}
    shuffled = np.random.RandomState(seed).permutation(sum(stage.steps for stage in recipe.stages))
    trained = (
        (number, stage, step)
        for number in shuffled.tolist()
        for stage, step in [_stage_of(recipe, number)]
        if not sequences[stage].is_skipped(step)
    )
    return [(stage, step) for _, stage, step in sorted(islice(trained, count))]


def _stage_of(recipe: Recipe, number: int) -> tuple[str, int]:
    """The stage and step of the run's step of that number, from 0."""
    for stage in recipe.stages:
        if number < stage.steps:
            return stage.name, number + 1
        number -= stage.steps
    raise AssertionError(f"{number} lies beyond the run")
