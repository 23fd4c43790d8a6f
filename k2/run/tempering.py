"""Smaller updates for a while: what the ledger says of a step's learning rate and clip. Pure; the trainer multiplies by it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from k2.run.ledger import Fact, UpdatesTempered


@dataclass(frozen=True)
class Temper:
    """Factors of the schedule's learning rate and of the recipe's clip."""

    learning_rate: float = 1.0
    clip: float = 1.0


UNTEMPERED = Temper()
MISCOMPUTED = Temper(learning_rate=300.0)  # what a test has an update come to


def tempered(facts: Iterable[Fact], stage: str) -> tuple[UpdatesTempered, ...]:
    """The stage's own, in order."""
    return tuple(fact for fact in facts if isinstance(fact, UpdatesTempered) and fact.stage == stage)


def temper_at(changes: Iterable[UpdatesTempered], step: int) -> Temper:
    """The factors of one step: those of all changes that hold there, multiplied."""
    holding = [change for change in changes if change.first_step <= step <= change.last_step]
    return Temper(math.prod(c.learning_rate_factor for c in holding), math.prod(c.clip_factor for c in holding))
