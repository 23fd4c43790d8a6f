"""Attempts at a task that failed, counted over processes and crashes: after the third the task is marked, and holds up nothing. Torch-free.

One line an attempt in `task_scores/<checkpoint>/failures.jsonl`. An attempt belongs to the export it was made with: a checkpoint that is
made anew begins with none.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from k2.run.layout import RunLayout
from k2.run.receipt import now

MOST_ATTEMPTS = 3


class FailedAttempt(BaseModel):
    """One attempt that failed."""

    model_config = ConfigDict(frozen=True)

    suite: str
    task: str
    export: str
    error: str
    at: str


def note_failure(layout: RunLayout, checkpoint: str, suite: str, task: str, export: str, error: Exception) -> list[FailedAttempt]:
    """Write the attempt down durably; every attempt at this task so far."""
    path = layout.task_failures(checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    attempt = FailedAttempt(suite=suite, task=task, export=export, error=f"{type(error).__name__}: {error}"[:1000], at=now())
    with path.open("ab") as file:
        file.write(attempt.model_dump_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return attempts_at(layout, checkpoint, suite, task, export)


def attempts_at(layout: RunLayout, checkpoint: str, suite: str, task: str, export: str) -> list[FailedAttempt]:
    """The attempts at the task that failed with this export."""
    return [a for a in _read(layout.task_failures(checkpoint)) if (a.suite, a.task, a.export) == (suite, task, export)]


def forget_failures(layout: RunLayout, checkpoint: str) -> None:
    """Somebody asks for the checkpoint by name: what was given up may be tried again."""
    layout.task_failures(checkpoint).unlink(missing_ok=True)


def _read(path: Path) -> Iterator[FailedAttempt]:
    if not path.is_file():
        return
    for line in path.read_bytes().splitlines():
        try:
            yield FailedAttempt.model_validate_json(line)
        except ValidationError:  # a line that a kill cut short
            continue
