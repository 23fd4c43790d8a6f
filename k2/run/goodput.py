"""Goodput: every second of a run is booked to exactly one cause.

What enters is the ledger, the step records and the time up to which to book; what leaves are seconds, or shares
that sum to 1. A cursor walks through the run's wall time and never backwards, so nothing is booked twice, no cause
is negative after a clock was set, and the sum is the wall time. The causes are those of the faults specification, 7.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Literal, get_args

from k2.recipe.schema import Recipe, Stage
from k2.run.ledger import AttemptEnded, AttemptStarted, Fact, IncidentDecided, IncidentOpened, ReplayProbed, RunCreated
from k2.run.records import Branches, StepRecord

_STALL_FACTOR, _STALL_FLOOR_SECONDS = 5.0, 60.0

Cause = Literal[
    "productive",  # steps that still count
    "rework_fault",  # steps that a crash or a stop lost
    "rework_spike",  # steps that a rollback threw away
    "ckpt_load",  # from a launch to its first step: the checkpoint is verified and loaded
    "ckpt_stall",  # between two steps, while a checkpoint was saved
    "eval_stall",  # after the last attempt: what is owed is settled, nothing trains
    "data_stall",  # before the first attempt: the data is prepared
    "hang",  # a trainer gave no sign for far too long, until it was killed
    "startup",  # the rest of the time from a launch to its first step, and from a crash or a rollback to the next launch
    "sched_wait",  # stopped or killed, and nobody had resumed it yet
    "human_wait",  # an incident waited for a decision
    "other",
]
CAUSES: tuple[Cause, ...] = get_args(Cause)


def goodput(facts: Sequence[Fact], recipe: Recipe, records: Mapping[str, Branches], now: float | None = None) -> dict[str, float]:
    """The share of each cause in the run's wall time; they sum to 1. Empty while no time has passed."""
    seconds = booked_seconds(facts, recipe, records, now)
    wall = sum(seconds.values())
    return {cause: spent / wall for cause, spent in seconds.items()} if wall > 0 else {}


def booked_seconds(facts: Sequence[Fact], recipe: Recipe, records: Mapping[str, Branches], now: float | None = None) -> dict[str, float]:
    """Seconds of each cause from the run's creation to `now` (seconds since the epoch); without it, to the last fact or record.

    `records` are those of `all_branches`.
    """
    created = next((_time(fact) for fact in facts if isinstance(fact, RunCreated)), None)
    if created is None:
        return {}
    book = _Book(created)
    waiting: Cause = "data_stall"
    for position, fact in enumerate(facts):
        if isinstance(fact, AttemptEnded) and fact.saved_at is not None and waiting == "ckpt_stall":
            book.advance(min(fact.saved_at, _time(fact)), waiting)
            waiting = "other"  # the ranks leave
        if isinstance(fact, ReplayProbed):
            waiting = "rework_spike"  # the steps trained once more
        book.advance(_time(fact), waiting)
        if isinstance(fact, AttemptStarted):
            later = facts[position + 1 :]
            attempt = _Attempt(recipe, recipe.stage(fact.stage), records[fact.stage].get(fact.attempt, []), _superseded(fact, later))
            gap = attempt.enter(book)
            waiting = "hang" if _hung(fact, later, attempt.records) else _wait_at_end(fact, later, gap)
        else:
            waiting = _wait_after(fact, waiting)
    if now is not None:
        book.advance(now, waiting)
    return dict(book.seconds)


class _Book:
    """Seconds by cause, and the moment up to which all are booked."""

    def __init__(self, start: float) -> None:
        self.cursor = start
        self.seconds: dict[str, float] = dict.fromkeys(CAUSES, 0.0)

    def advance(self, to: float, cause: Cause) -> None:
        """Book the time up to `to`, if it is not booked yet."""
        if to > self.cursor:
            self.seconds[cause] += to - self.cursor
            self.cursor = to


@dataclass(frozen=True)
class _Superseded:
    """From `first_step` on, a later attempt replaced this one's steps; `by` says why."""

    first_step: int
    by: Literal["rework_fault", "rework_spike"]


@dataclass(frozen=True)
class _Attempt:
    """One attempt's records, and what became of its steps."""

    recipe: Recipe
    stage: Stage
    records: list[StepRecord]
    superseded: list[_Superseded]

    def enter(self, book: _Book) -> Cause:
        """Book the attempt's steps and the gaps between them; the cause of a gap after its last step."""
        gap: Cause = "startup"
        for record in self.records:
            ended = record.at or book.cursor + record.seconds
            book.advance(ended - record.seconds - record.loading_seconds, gap)
            book.advance(ended - record.seconds, "ckpt_load")
            book.advance(ended, self._cause(record.step))
            gap = "ckpt_stall" if self._is_saved(record.step) else "other"
        return gap

    def _is_saved(self, step: int) -> bool:
        """Whether a checkpoint is due after the step."""
        return step % self.stage.steps_per_chunk == 0 or step % self.recipe.checkpoints.rescue_every_steps == 0

    def _cause(self, step: int) -> Cause:
        """The first later attempt that begins at or before the step decides."""
        return next((later.by for later in self.superseded if later.first_step <= step), "productive")


def _superseded(started: AttemptStarted, later: Sequence[Fact]) -> list[_Superseded]:
    """What replaced the attempt's steps, in order."""
    found: list[_Superseded] = []
    by: Literal["rework_fault", "rework_spike"] = "rework_fault"
    for fact in later:
        if isinstance(fact, IncidentDecided) and fact.action == "rollback":
            by = "rework_spike"
        elif isinstance(fact, AttemptStarted) and fact.stage == started.stage:
            found.append(_Superseded(fact.first_step, by))
            by = "rework_fault"
    return found


def _hung(started: AttemptStarted, later: Sequence[Fact], records: Sequence[StepRecord]) -> bool:
    """Whether the attempt was killed for its silence: by the rule that kills (`launch.pulse`), told from its records."""
    ended = next((f for f in later if isinstance(f, AttemptEnded) and f.attempt == started.attempt), None)
    if ended is None or ended.outcome != "crashed" or len(records) < 2:
        return False
    gaps = sorted(max(0.0, b.at - a.at) for a, b in pairwise(records))
    p99 = gaps[math.ceil(0.99 * len(gaps)) - 1]
    return _time(ended) - records[-1].at > max(_STALL_FACTOR * p99, 2 * gaps[-1], _STALL_FLOOR_SECONDS)


def _wait_at_end(started: AttemptStarted, later: Sequence[Fact], gap: Cause) -> Cause:
    """The cause of the time from an attempt's last step to the next fact."""
    outcome = next((f.outcome for f in later if isinstance(f, AttemptEnded) and f.attempt == started.attempt), None)
    if outcome in {"completed", "stopped"} and gap != "startup":
        return "ckpt_stall"  # the save that ends it
    if outcome in {None, "lost"} and any(isinstance(f, AttemptStarted | IncidentOpened) for f in later):
        return "sched_wait"  # killed together with its driver
    return gap


def _wait_after(fact: Fact, waiting: Cause) -> Cause:
    """What the run waits for after this fact, until the next one."""
    match fact:
        case AttemptEnded(outcome="completed"):
            return "eval_stall"
        case AttemptEnded(outcome="crashed") | IncidentDecided():
            return "startup"
        case AttemptEnded(outcome="stopped" | "lost"):
            return "sched_wait"
        case IncidentOpened():
            return "human_wait"
        case _:
            return waiting


def _time(fact: Fact) -> float:
    return datetime.fromisoformat(fact.at).timestamp()
