"""Where a run stands, as `k2 status --json` prints it. Read from the directory alone; nothing is written."""

import time
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from k2.recipe.schema import Recipe
from k2.run.goodput import goodput
from k2.run.holdings import HeldCheckpoint, Holdings, read_holdings
from k2.run.layout import RunLayout
from k2.run.lease import is_held
from k2.run.ledger import AttemptStarted, Fact, IncidentOpened, read_facts
from k2.run.plan import Ask, Done, Prepare, Release, Settle, Train, decision_of, duties_of, next_action
from k2.run.records import Branches, all_branches

State = Literal["preparing", "training", "evaluating", "waiting", "stopped", "done"]


class CheckpointStatus(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    stage: str
    step: int
    tokens: int
    obligations: dict[str, bool]


class Status(BaseModel):
    """The contract's fields of `k2 status`."""

    model_config = ConfigDict(frozen=True)

    run: str
    state: State
    stage: str | None
    chunk: int | None = Field(description="position in the stage's order, from 0")
    step: int
    tokens: int
    attempts: int
    incidents: list[dict[str, Any]]
    checkpoints: list[CheckpointStatus]
    goodput: dict[str, float]


def read_status(recipe: Recipe, layout: RunLayout) -> Status:
    """The run's status now. The time of a run that nobody drives is booked up to its last fact."""
    facts = read_facts(layout.ledger)
    return status_of(recipe, layout, facts, all_branches(layout, facts, recipe))


def status_of(recipe: Recipe, layout: RunLayout, facts: list[Fact], records: Mapping[str, Branches]) -> Status:
    """The status of a run whose facts and records are read already."""
    holdings = read_holdings(recipe, layout, facts)
    stage, step = _position(recipe, holdings)
    return Status(
        run=layout.name,
        state=_state(recipe, layout, facts, holdings),
        stage=stage,
        chunk=None if stage is None else min(max(step - 1, 0) // recipe.stage(stage).steps_per_chunk, recipe.stage(stage).chunks - 1),
        step=step,
        tokens=max((c.tokens for c in holdings.checkpoints), default=0),
        attempts=sum(isinstance(fact, AttemptStarted) for fact in facts),
        incidents=[_incident(facts, fact) for fact in facts if isinstance(fact, IncidentOpened)],
        checkpoints=[_checkpoint(recipe, c) for c in holdings.checkpoints if c.kind == "chunk"],
        goodput=goodput(facts, recipe, records, time.time() if is_held(layout) else None),
    )


def _state(recipe: Recipe, layout: RunLayout, facts: list[Fact], holdings: Holdings) -> State:
    action = next_action(recipe, facts, holdings)
    match action:
        case Done():
            return "done"
        case Ask(incident=incident) if incident.why_asked is not None or not is_held(layout):
            return "waiting"
    if not is_held(layout):
        return "stopped"
    match action:
        case Prepare():
            return "preparing"
        case Settle() | Release():
            return "evaluating"
        case Train() | _:
            return "training"


def _position(recipe: Recipe, holdings: Holdings) -> tuple[str | None, int]:
    """The stage that is being trained, or was last, and its last step."""
    begun = [stage.name for stage in recipe.stages if holdings.reached[stage.name] > 0]
    return (begun[-1], holdings.reached[begun[-1]]) if begun else (None, 0)


def _incident(facts: list[Fact], incident: IncidentOpened) -> dict[str, Any]:
    decision = decision_of(facts, incident.incident)
    shown = incident.model_dump(exclude={"at", "prev", "fact"})
    return shown | {"decision": None if decision is None else decision.model_dump(exclude={"at", "prev", "fact", "incident"})}


def _checkpoint(recipe: Recipe, held: HeldCheckpoint) -> CheckpointStatus:
    duties: dict[str, bool] = {duty: duty in held.settled for duty in duties_of(recipe, held)}
    return CheckpointStatus(name=held.name, stage=held.stage, step=held.step, tokens=held.tokens, obligations=duties)
