"""Where an attempt branched off, and what became of it: the history of attempts as W&B can tell it. Pure, from the ledger."""

from dataclasses import dataclass

from k2.run.ledger import AttemptStarted, Fact, IncidentDecided, IncidentOpened
from k2.run.records import attempts_of


@dataclass(frozen=True)
class Fork:
    """The attempt went on from `step` of the attempt `parent`."""

    parent: int
    step: int


def fork_of(facts: list[Fact], attempt: AttemptStarted) -> Fork | None:
    """Where the attempt branched off; None for the first of its stage, or one that began at the stage's start."""
    step = attempt.first_step - 1
    earlier = [other for other in attempts_of(facts, attempt.stage) if other.attempt < attempt.attempt and other.first_step <= step]
    return Fork(earlier[-1].attempt, step) if earlier else None


def incidents_of(facts: list[Fact], attempt: int) -> list[dict[str, str | int | None]]:
    """The attempt's incidents, each with its answer."""
    answers = {fact.incident: fact for fact in facts if isinstance(fact, IncidentDecided)}
    found: list[dict[str, str | int | None]] = []
    for fact in facts:
        if isinstance(fact, IncidentOpened) and fact.attempt == attempt:
            answer = answers.get(fact.incident)
            told: dict[str, str | int | None] = {"incident": fact.incident, "kind": fact.kind, "onset_step": fact.onset_step}
            told |= {"verdict_step": fact.verdict_step, "answer": None, "back_to": None}
            found.append(told if answer is None else told | {"answer": answer.action, "back_to": answer.checkpoint})
    return found
