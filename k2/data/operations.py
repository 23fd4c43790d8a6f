"""The effective order with its history, as `k2 data order` shows it: what was done to it, by whom, when and why."""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from k2.data.order import effective_order, skipped_ranges
from k2.recipe.schema import Recipe, Stage
from k2.run.ledger import ChunkDeferred, Fact, StepsSkipped


class Operation(BaseModel):
    """One entry of the ledger that changed what a stage trains on."""

    model_config = ConfigDict(frozen=True)

    operation: str
    who: str
    when: str
    why: str


class StageOrder(BaseModel):
    """The chunk at each position, the steps that are never trained, and how that came about."""

    model_config = ConfigDict(frozen=True)

    name: str
    order: tuple[int, ...]
    skipped: tuple[tuple[int, int], ...]
    operations: tuple[Operation, ...]


class Order(BaseModel):
    model_config = ConfigDict(frozen=True)

    stages: tuple[StageOrder, ...]


def describe_order(recipe: Recipe, facts: list[Fact]) -> Order:
    """The order of every stage."""
    return Order(stages=tuple(_stage(stage, facts) for stage in recipe.stages))


def _stage(stage: Stage, facts: list[Fact]) -> StageOrder:
    return StageOrder(
        name=stage.name,
        order=effective_order(stage, facts),
        skipped=skipped_ranges(stage.name, facts),
        operations=tuple(_operations(stage, facts)),
    )


def _operations(stage: Stage, facts: list[Fact]) -> Iterable[Operation]:
    for fact in facts:
        if isinstance(fact, ChunkDeferred) and fact.stage == stage.name:
            yield Operation(operation=f"position {fact.position} deferred to the end", who=fact.who, when=fact.at, why=fact.why)
        elif isinstance(fact, StepsSkipped) and fact.stage == stage.name:
            yield Operation(operation=f"steps {fact.first_step} to {fact.last_step} skipped", who=fact.who, when=fact.at, why=fact.why)
