"""The order of the chunks and the skipped steps: pure folds over the ledger's facts.

Enters a stage and the facts; leaves which chunk stands at which position, and which steps are never trained. Positions
and chunk ids count from 0, steps from 1. What K2 did by cutting lists in its training script (K2 §0.2) is a
fact here: deferring position 160, then position 185 of the order that this gave, makes its published order.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from k2.recipe.schema import Stage
from k2.run.ledger import ChunkDeferred, Fact, StepsSkipped


@dataclass(frozen=True)
class Seat:
    """Where a step's rows lie: `count` rows of `chunk`, which stands at `position`, from `first_row` on."""

    position: int
    chunk: int
    first_row: int
    count: int


def effective_order(stage: Stage, facts: Iterable[Fact], start: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """The chunk at each position. It begins as `start` (0, 1, 2 ... when not given); each deferral acts on the order as it stood."""
    order = tuple(range(stage.chunks)) if start is None else start
    for fact in facts:
        if isinstance(fact, ChunkDeferred) and fact.stage == stage.name:
            order = defer(order, fact.position)
    return order


def defer(order: tuple[int, ...], position: int) -> tuple[int, ...]:
    """The order with the chunk at `position` moved to the end."""
    if not 0 <= position < len(order):
        raise ValueError(f"position {position} cannot be deferred: the order has the positions 0 to {len(order) - 1}")
    return (*order[:position], *order[position + 1 :], order[position])


def skipped_ranges(stage: str, facts: Iterable[Fact]) -> tuple[tuple[int, int], ...]:
    """First and last step of each range that is not trained, in order; ranges that touch are one."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted((f.first_step, f.last_step) for f in facts if isinstance(f, StepsSkipped) and f.stage == stage):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return tuple(merged)


def is_skipped(step: int, ranges: Iterable[tuple[int, int]]) -> bool:
    """Whether the step lies in one of the ranges."""
    return any(first <= step <= last for first, last in ranges)


def chunk_of_step(stage: Stage, order: tuple[int, ...], step: int) -> Seat:
    """Which rows of which chunk the step takes."""
    if not 1 <= step <= stage.steps:
        raise ValueError(f"{stage.name} has no step {step}: its steps are 1 to {stage.steps}")
    position, within = divmod(step - 1, stage.steps_per_chunk)
    return Seat(position, order[position], within * stage.batch_samples, stage.batch_samples)


def step_of_row(stage: Stage, position: int, row: int) -> int:
    """The step that takes the row of the chunk at `position`."""
    return position * stage.steps_per_chunk + row // stage.batch_samples + 1
