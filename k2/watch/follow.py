"""The watcher beside the trainer: follows an attempt's records and asks for a stop on a malignant verdict.

What enters is the growing file of step records; what leaves is the verdict, and a stop request on the disk. The
ledger is not written here: the driver judges the same records again and comes to the same verdict.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from k2.recipe.schema import Recipe
from k2.run.control import read_stop_request, request_stop
from k2.run.injection import strike
from k2.run.layout import RunLayout
from k2.run.ledger import Fact
from k2.run.records import RecordTail, StepRecord
from k2.watch.event import Event
from k2.watch.keeping import detector_at
from k2.watch.policy import first_unanswered
from k2.watch.spikes import observe

VERDICT = "verdict"  # the reason of the watcher's stop request
_POLL_SECONDS = 0.2


class Ended(Protocol):
    """What `follow` needs of a `threading.Event`: set when no more records will come."""

    def wait(self, timeout: float) -> bool: ...


class Segment(Protocol):
    """What the watcher needs of a launched segment (`run.plan.Train`)."""

    @property
    def stage(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def first_step(self) -> int: ...
    @property
    def checkpoint(self) -> str | None: ...


def follow(path: Path, stop: Ended) -> Iterator[StepRecord]:
    """The records in `path` as they are written, until `stop` is set and the file is read to its end.

    The file need not exist yet. A line without its newline is left for later; a line that is no record is passed over.
    """
    tail, ended = RecordTail(path), False
    while True:
        yield from tail.new()
        if ended:
            return
        ended = stop.wait(_POLL_SECONDS)


def verdicts(recipe: Recipe, facts: list[Fact], layout: RunLayout, train: Segment, ended: Ended) -> Iterator[Event]:
    """The attempt's malignant verdicts as they fall, until `ended` is set. Those that have an incident are not given again."""
    detector = detector_at(recipe, layout, facts, train.stage, train.first_step, train.checkpoint)
    for event in observe(detector, follow(layout.metrics(train.stage, train.attempt), ended)):
        if first_unanswered(facts, train.attempt, (event,)) is not None:
            yield event


def watch_attempt(recipe: Recipe, facts: list[Fact], layout: RunLayout, train: Segment, ended: Ended) -> Event | None:
    """Watch one attempt until `ended` is set or a malignant verdict falls; then ask its trainer to stop, and give the verdict."""
    event = next(verdicts(recipe, facts, layout, train, ended), None)
    standing = read_stop_request(layout)
    if event is not None and (standing is None or standing.attempt != train.attempt):
        strike("watcher.verdict")
        request_stop(layout, train.attempt, VERDICT)
        strike("watcher.asked")
    return event
