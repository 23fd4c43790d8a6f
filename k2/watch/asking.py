"""What a human is asked about an incident, by when, and what counts as an answer. Pure.

What enters is an undecided incident with the run's ledger and checkpoints; what leaves is a `Question`: every answer
that would be accepted, the one proposed, and the moment from which the recipe's default stands. The question has a
name of its own, so that an answer to one incident never answers another.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from k2.recipe.schema import Recipe
from k2.run.holdings import Holdings
from k2.run.ledger import Fact, IncidentOpened
from k2.watch.policy import Choice, DecisionRefused, decide, why_asked

Operation = Literal["skip", "defer"]

_OPERATIONS: tuple[Operation, ...] = ("skip", "defer")
TIME_OUT = "time-out"  # who decided, where nobody answered


@dataclass(frozen=True)
class Question:
    """`name` is bound to run, incident, onset and attempt. `targets` are the checkpoints to go back to, newest first."""

    name: str
    incident: IncidentOpened
    targets: tuple[str, ...]
    proposed: str | None  # the policy's own target; None: the start of the stage
    operations: tuple[Operation, ...]
    why: str | None  # the policy does not answer alone; None: it would by now
    default: Choice
    deadline: datetime | None  # None: it waits for ever


def question_name(run: str, incident: IncidentOpened) -> str:
    """The name of the one question that an answer belongs to."""
    return f"{run} incident {incident.incident:03d}: {incident.stage} step {incident.onset_step}, attempt {incident.attempt}"


def question(recipe: Recipe, run: str, facts: list[Fact], holdings: Holdings, incident: IncidentOpened) -> Question:
    """Everything that may be answered now."""

    def accepted(to: str | None, data: Operation | None) -> bool:
        return _is_accepted(lambda: decide(recipe, facts, holdings, incident.incident, "rollback", to, data))

    held = sorted(holdings.of_stage(incident.stage), key=lambda checkpoint: -checkpoint.step)
    usual_first = sorted(_OPERATIONS, key=lambda data: data != recipe.spikes.bypass)
    operations = tuple(data for data in usual_first if accepted(None, data))
    return Question(
        name=question_name(run, incident),
        incident=incident,
        targets=tuple(checkpoint.name for checkpoint in held if any(accepted(checkpoint.name, data) for data in (None, *operations))),
        proposed=_proposed(recipe, facts, holdings, incident),
        operations=operations,
        why=incident.why_asked or why_asked(recipe, facts, holdings, incident),
        default=recipe.spikes.unanswered,
        deadline=deadline(recipe, incident),
    )


def deadline(recipe: Recipe, incident: IncidentOpened) -> datetime | None:
    """From when on the recipe's default stands; None where the incident waits for ever."""
    hours = recipe.spikes.answer_within_hours
    return None if hours is None else datetime.fromisoformat(incident.at) + timedelta(hours=hours)


def answer_overdue(recipe: Recipe, facts: list[Fact], holdings: Holdings, incident: IncidentOpened, now: datetime) -> tuple[Fact, ...]:
    """The recipe's default as facts, once the time to answer has passed; nothing before."""
    ends = deadline(recipe, incident)
    if ends is None or now < ends:
        return ()
    return decide(recipe, facts, holdings, incident.incident, recipe.spikes.unanswered, who=TIME_OUT)


def _proposed(recipe: Recipe, facts: list[Fact], holdings: Holdings, incident: IncidentOpened) -> str | None:
    *_, decision = decide(recipe, facts, holdings, incident.incident, "rollback")
    return getattr(decision, "checkpoint", None)


def _is_accepted(answer: Callable[[], object]) -> bool:
    try:
        answer()
    except DecisionRefused:
        return False
    return True
