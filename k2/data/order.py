"""The effective sequence of a stage: which rows of which chunk each step trains, and which are never trained.

A pure fold: enters a stage, its chunks and the ledger's facts; leaves a `Sequence`. The loader, the trainer's skipping and
`k2 data seen` ask nothing else. Positions, chunk ids and rows count from 0, steps from 1. What K2 did by cutting lists in
its training script (K2 §0.2) is a fact here: deferring position 160, then position 185 of the order that this gave,
makes its published order. Every operation can be undone from what its fact says, so the order is auditable both ways.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from k2.recipe.schema import Stage
from k2.run.ledger import ChunkDeferred, ChunkRepeated, ChunksReordered, DataOperation, Fact, SamplesSkipped, StepsSkipped
from k2.run.operations import data_operations

Order = tuple[int, ...]
Ranges = tuple[tuple[int, int], ...]  # first and last of each, in order; ranges that touch are one


class OperationRefused(ValueError):
    """A data operation that cannot be done. The text names the numbers, the rule and the fix."""


@dataclass(frozen=True)
class Seat:
    """Where a step's rows lie: `count` rows of `chunk`, which stands at `position`, from `first_row` on."""

    position: int
    chunk: int
    first_row: int
    count: int


@dataclass(frozen=True)
class Sequence:
    """The chunk at each position, and what is left out.

    A step whose rows are skipped in part is still a whole batch: the rows that are left stand in for the skipped ones, each
    at most twice. A step that keeps less than half of its rows is not trained.
    """

    stage: Stage
    order: Order
    skipped_steps: Ranges
    skipped_rows: Mapping[int, Ranges]

    def seat(self, step: int) -> Seat:
        """Which rows of which chunk the step has. `ValueError` for a step that the stage has not."""
        if not 1 <= step <= self.stage.steps:
            raise ValueError(f"{self.stage.name} has no step {step}: its steps are 1 to {self.stage.steps}")
        position, within = divmod(step - 1, self.stage.steps_per_chunk)
        return Seat(position, self.order[position], within * self.stage.batch_samples, self.stage.batch_samples)

    def is_skipped(self, step: int) -> bool:
        """Whether the step is not trained."""
        if _inside(step, self.skipped_steps):
            return True
        return bool(self.skipped_rows) and 2 * len(self._kept(self.seat(step))) < self.stage.batch_samples

    def rows(self, step: int) -> list[int] | slice:
        """The rows of the chunk that the step trains, in their places in the batch."""
        seat = self.seat(step)
        if seat.chunk not in self.skipped_rows:
            return slice(seat.first_row, seat.first_row + seat.count)
        kept, skipped = self._kept(seat), self.skipped_rows[seat.chunk]
        stand_ins = iter(kept)
        whole = range(seat.first_row, seat.first_row + seat.count)
        return [next(stand_ins) if _inside(row, skipped) else row for row in whole]

    def times(self, position: int, row: int) -> int:
        """How often its step trains the row of the chunk at `position`: not, once, or twice as a stand-in."""
        step = step_of_row(self.stage, position, row)
        if self.is_skipped(step):
            return 0
        rows = self.rows(step)
        return 1 if isinstance(rows, slice) else rows.count(row)

    def positions(self, chunk: int) -> list[int]:
        """Where the chunk stands: nowhere if a repeated one took its place, more than once if it is repeated."""
        return [position for position, there in enumerate(self.order) if there == chunk]

    def _kept(self, seat: Seat) -> list[int]:
        skipped = self.skipped_rows.get(seat.chunk, ())
        return [row for row in range(seat.first_row, seat.first_row + seat.count) if not _inside(row, skipped)]


def sequence_of(stage: Stage, facts: Iterable[Fact]) -> Sequence:
    """The stage's sequence as the ledger stands. It begins as 0, 1, 2 ...; each operation acts on what the ones before it left."""
    operations = tuple(data_operations(facts, stage.name))
    order: Order = tuple(range(stage.chunks))
    for operation in operations:
        order = done(order, operation)
    steps = [(o.first_step, o.last_step) for o in operations if isinstance(o, StepsSkipped)]
    rows = [o for o in operations if isinstance(o, SamplesSkipped)]
    by_chunk = {chunk: _joined((o.first_row, o.last_row) for o in rows if o.chunk == chunk) for chunk in {o.chunk for o in rows}}
    return Sequence(stage, order, _joined(steps), by_chunk)


def done(order: Order, operation: DataOperation) -> Order:
    """The order after the operation. `OperationRefused` when the order is not the one that the operation speaks of."""
    match operation:
        case ChunkDeferred():
            _check_position(order, operation.position, "deferred")
            return (*order[: operation.position], *order[operation.position + 1 :], order[operation.position])
        case ChunksReordered():
            _check_reorder(order, operation)
            return _placed(order, operation.position, operation.chunks)
        case ChunkRepeated():
            _check_repeat(order, operation)
            return _placed(order, operation.again_at, (operation.chunk,))
        case StepsSkipped() | SamplesSkipped():
            return order


def undone(order: Order, operation: DataOperation) -> Order:
    """The order before the operation: `undone(done(order, o), o) == order`."""
    match operation:
        case ChunkDeferred():
            return (*order[: operation.position], order[-1], *order[operation.position : -1])
        case ChunksReordered():
            return _placed(order, operation.position, operation.before)
        case ChunkRepeated():
            return _placed(order, operation.again_at, (operation.replaced,))
        case StepsSkipped() | SamplesSkipped():
            return order


def step_of_row(stage: Stage, position: int, row: int) -> int:
    """The step that has the row of the chunk at `position`."""
    return position * stage.steps_per_chunk + row // stage.batch_samples + 1


def _check_position(order: Order, position: int, verb: str) -> None:
    if not 0 <= position < len(order):
        raise OperationRefused(f"position {position} cannot be {verb}: the order has the positions 0 to {len(order) - 1}")


def _check_reorder(order: Order, operation: ChunksReordered) -> None:
    _check_position(order, operation.position, "reordered")
    stands = order[operation.position : operation.position + len(operation.before)]
    if operation.before != stands:
        raise OperationRefused(f"from position {operation.position} on stand the chunks {stands}, not {operation.before}: ask again")
    if sorted(operation.chunks) != sorted(stands):
        raise OperationRefused(
            f"a reordering keeps every chunk: from position {operation.position} on stand {stands}, which {operation.chunks} "
            "does not hold each as often; to train a chunk twice, repeat it"
        )


def _check_repeat(order: Order, operation: ChunkRepeated) -> None:
    _check_position(order, operation.position, "repeated")
    _check_position(order, operation.again_at, "given to a repeated chunk")
    if operation.again_at <= operation.position:
        raise OperationRefused(f"a chunk is repeated later: position {operation.again_at} does not lie after {operation.position}")
    if (order[operation.position], order[operation.again_at]) != (operation.chunk, operation.replaced):
        raise OperationRefused(
            f"at the positions {operation.position} and {operation.again_at} stand the chunks {order[operation.position]} and "
            f"{order[operation.again_at]}, not {operation.chunk} and {operation.replaced}: ask again"
        )


def _placed(order: Order, position: int, chunks: Order) -> Order:
    return (*order[:position], *chunks, *order[position + len(chunks) :])


def _joined(found: Iterable[tuple[int, int]]) -> Ranges:
    """Sorted, and what touches joined."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(found):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return tuple(merged)


def _inside(number: int, ranges: Ranges) -> bool:
    return any(first <= number <= last for first, last in ranges)
