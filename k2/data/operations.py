"""The operations on a stage's data that a person asks for, as facts that the ledger may take; and the order with its history.

Pure: enters the recipe, the ledger's facts and the run's holdings; leaves a fact, or `OperationRefused` with the numbers.
What is trained and stands is never re-ordered: a position whose first step lies before the place where the next segment
goes on can be moved neither away nor over. Go back first (an incident's rollback), then change the order.
"""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from k2.data.branches import Branch, branches_of
from k2.data.order import OperationRefused, Sequence, done, sequence_of, step_of_row
from k2.recipe.schema import Recipe, Stage
from k2.run.holdings import Holdings
from k2.run.layout import RunLayout
from k2.run.ledger import ChunkDeferred, ChunkRepeated, ChunksReordered, DataOperation, Fact, SamplesSkipped, StepsSkipped
from k2.run.operations import data_operations, words
from k2.run.plan import next_segment, open_incident


@dataclass(frozen=True)
class Asker:
    """Who asks for an operation, and why."""

    who: str
    why: str


@dataclass(frozen=True)
class Ahead:
    """A stage's sequence as it stands, and the first step of it that is still ahead: `steps + 1` when none is."""

    stage: Stage
    sequence: Sequence
    first_step: int

    @property
    def first_position(self) -> int:
        """The first position of which nothing is trained."""
        return -(-(self.first_step - 1) // self.stage.steps_per_chunk)

    def defer(self, position: int, asker: Asker) -> ChunkDeferred:
        """The chunk at `position` to the end of the order."""
        self._check_position(position, "deferred")
        if position == self.stage.chunks - 1:
            raise OperationRefused(f"position {position} is the last of {self.stage.name}: its chunk is at the end already")
        return ChunkDeferred(stage=self.stage.name, position=position, who=asker.who, why=asker.why)

    def reorder(self, position: int, chunks: tuple[int, ...], asker: Asker) -> ChunksReordered:
        """From `position` on these chunks, which stand there in another order."""
        self._check_position(position, "reordered")
        before = self.sequence.order[position : position + len(chunks)]
        operation = ChunksReordered(stage=self.stage.name, position=position, before=before, chunks=chunks, who=asker.who, why=asker.why)
        done(self.sequence.order, operation)
        return operation

    def repeat(self, position: int, again_at: int, asker: Asker) -> ChunkRepeated:
        """The chunk at `position` once more at `again_at`, in the place of the one there."""
        self._check_position(again_at, "given to another chunk")
        if not 0 <= position < again_at:
            raise OperationRefused(f"a chunk is repeated later: position {position} does not lie between 0 and {again_at}")
        chunk, replaced = self.sequence.order[position], self.sequence.order[again_at]
        stage, who, why = self.stage.name, asker.who, asker.why
        return ChunkRepeated(stage=stage, position=position, chunk=chunk, again_at=again_at, replaced=replaced, who=who, why=why)

    def skip_steps(self, first: int, last: int, asker: Asker) -> StepsSkipped:
        """These steps, the last one included."""
        if not 1 <= first <= last <= self.stage.steps:
            raise OperationRefused(f"steps {first} to {last} are no range of {self.stage.name}'s steps 1 to {self.stage.steps}")
        if first < self.first_step:
            raise OperationRefused(f"steps {first} to {last} cannot be skipped: {self._passed()}; what is trained is trained")
        return StepsSkipped(stage=self.stage.name, first_step=first, last_step=last, who=asker.who, why=asker.why)

    def skip_rows(self, chunk: int, first: int, last: int, asker: Asker) -> SamplesSkipped:
        """These rows of a chunk, the last one included, wherever the chunk stands ahead."""
        if not (0 <= chunk < self.stage.chunks and 0 <= first <= last < self.stage.samples_per_chunk):
            raise OperationRefused(
                f"rows {first} to {last} of chunk {chunk} do not exist: {self.stage.name} has the chunks 0 to {self.stage.chunks - 1} "
                f"of the rows 0 to {self.stage.samples_per_chunk - 1}"
            )
        first_steps = [step_of_row(self.stage, position, first) for position in self.sequence.positions(chunk)]
        if not any(step >= self.first_step for step in first_steps):
            where = f"stands at step {max(first_steps)}" if first_steps else "stands nowhere: a repeated chunk took its place"
            raise OperationRefused(f"row {first} of chunk {chunk} cannot be skipped: it {where}; {self._passed()}")
        return SamplesSkipped(stage=self.stage.name, chunk=chunk, first_row=first, last_row=last, who=asker.who, why=asker.why)

    def _check_position(self, position: int, verb: str) -> None:
        if not 0 <= position < self.stage.chunks:
            raise OperationRefused(
                f"position {position} cannot be {verb}: the order of {self.stage.name} has the positions 0 to {self.stage.chunks - 1}"
            )
        if position < self.first_position:
            begins = position * self.stage.steps_per_chunk + 1
            raise OperationRefused(
                f"position {position} cannot be {verb}: it begins at step {begins}, and {self._passed()}. "
                f"What is trained is not re-ordered: use positions from {self.first_position} on, or go back before it first"
            )

    def _passed(self) -> str:
        return f"{self.stage.name} is trained to step {self.first_step - 1}"


def what_is_ahead(recipe: Recipe, facts: list[Fact], holdings: Holdings, stage: Stage) -> Ahead:
    """What of the stage can still be changed. `OperationRefused` while an incident is open: its answer decides where training goes on."""
    incident = open_incident(facts)
    if incident is not None:
        raise OperationRefused(f"incident {incident.incident} is open: answer it first (`k2 decide`) and resume; then change the order")
    later = recipe.stages[recipe.stages.index(stage) + 1 :]
    over = any(holdings.of_stage(one.name) for one in later)
    first_step = stage.steps + 1 if over else next_segment(recipe, facts, holdings, stage).first_step
    return Ahead(stage, sequence_of(stage, facts), first_step)


class Operation(BaseModel):
    """One entry of the ledger that changed what a stage trains on."""

    model_config = ConfigDict(frozen=True)

    operation: str
    who: str
    when: str
    why: str
    fact: DataOperation


class BranchShown(BaseModel):
    """One attempt's steps: those up to `stands_until` count, the ones from `abandoned_from` on were given up (none: all stand)."""

    model_config = ConfigDict(frozen=True)

    attempt: int
    checkpoint: str | None
    first_step: int
    last_step: int
    stands_until: int | None
    abandoned_from: int | None
    order: tuple[int, ...]


class SkippedRows(BaseModel):
    model_config = ConfigDict(frozen=True)

    chunk: int
    rows: tuple[tuple[int, int], ...]


class StageOrder(BaseModel):
    """The chunk at each position, what is never trained, how that came about, and which attempt trained what."""

    model_config = ConfigDict(frozen=True)

    name: str
    order: tuple[int, ...]
    skipped: tuple[tuple[int, int], ...]
    skipped_rows: tuple[SkippedRows, ...]
    operations: tuple[Operation, ...]
    branches: tuple[BranchShown, ...]


class Order(BaseModel):
    model_config = ConfigDict(frozen=True)

    stages: tuple[StageOrder, ...]


def describe_order(recipe: Recipe, layout: RunLayout, facts: list[Fact]) -> Order:
    """The order of every stage, with its operations and branches."""
    return Order(stages=tuple(_stage(layout, stage, facts) for stage in recipe.stages))


def _stage(layout: RunLayout, stage: Stage, facts: list[Fact]) -> StageOrder:
    sequence = sequence_of(stage, facts)
    operations = data_operations(facts, stage.name)
    return StageOrder(
        name=stage.name,
        order=sequence.order,
        skipped=sequence.skipped_steps,
        skipped_rows=tuple(SkippedRows(chunk=chunk, rows=rows) for chunk, rows in sorted(sequence.skipped_rows.items())),
        operations=tuple(Operation(operation=words(one), who=one.who, when=one.at, why=one.why, fact=one) for one in operations),
        branches=tuple(_branch(branch) for branch in branches_of(layout, facts, stage)),
    )


def _branch(branch: Branch) -> BranchShown:
    stands = branch.stands_until >= branch.first_step
    return BranchShown(
        attempt=branch.attempt,
        checkpoint=branch.checkpoint,
        first_step=branch.first_step,
        last_step=branch.last_step,
        stands_until=branch.stands_until if stands else None,
        abandoned_from=branch.stands_until + 1 if branch.stands_until < branch.last_step else None,
        order=branch.sequence.order,
    )
