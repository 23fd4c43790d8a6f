"""The detector over a recorded curve: what it would have said, step by step.

A `.csv` or `.csv.gz` has the columns `step, loss` and perhaps `grad_norm` and `resumed` (1 on the first step after a
resume); a `.jsonl` has the same fields, or is a file of step records. Events leave in the order of their verdicts.
"""

import csv
import gzip
import json
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from k2.recipe.spikes import Spikes
from k2.run.records import StepRecord
from k2.watch.event import Event
from k2.watch.spikes import Detector

_STATE_EVERY = 500


class CurveRefused(ValueError):
    """A file that is no recorded curve. The text names the place, the rule and the fix."""


def replay(path: Path, spikes: Spikes) -> Iterator[Event]:
    """The detector's events over the curve in `path`. `CurveRefused` for a file that cannot be read as one."""
    return replay_records(Detector(spikes), read_curve(path), spikes)


def replay_records(detector: Detector, records: Iterable[StepRecord], spikes: Spikes) -> Iterator[Event]:
    """The events over records in which a resume may go back: the detector's state is then that of the step it goes back to.

    The first steps that are trained again are compared with what was recorded of them.
    """
    lineage = _Lineage(detector.state())
    for record in records:
        if lineage.goes_back(record):
            detector = Detector.restore(spikes, lineage.state_before(record.step))
            for earlier in lineage.back_to(record.step):
                detector.observe(earlier)
            detector.expect(lineage.abandoned)
        event = detector.observe(record)
        lineage.add(record, detector)
        if event is not None:
            yield event


class _Lineage:
    """The records that still count, and the detector's state at some of them."""

    def __init__(self, fresh: dict[str, Any]) -> None:
        self._records: list[StepRecord] = []
        self._states = [(0, fresh)]  # (how many records it has seen, state)
        self.abandoned: dict[int, float] = {}

    def goes_back(self, record: StepRecord) -> bool:
        """Whether a later attempt trains a step again."""
        return bool(self._records) and record.attempt > self._records[-1].attempt and self._is_again(record)

    def state_before(self, step: int) -> dict[str, Any]:
        """The newest state that has seen nothing of the step or later ones; drops what comes after it."""
        kept = bisect_left(self._records, step, key=lambda record: record.step)
        while self._states[-1][0] > kept:
            self._states.pop()
        return self._states[-1][1]

    def back_to(self, step: int) -> list[StepRecord]:
        """Drop the records from the step on, and give those that the newest state has not seen."""
        kept = bisect_left(self._records, step, key=lambda record: record.step)
        self.abandoned = {record.step: record.loss for record in self._records[kept:]}
        del self._records[kept:]
        return self._records[self._states[-1][0] :]

    def add(self, record: StepRecord, detector: Detector) -> None:
        if self._records and (record.step <= self._records[-1].step or record.attempt < self._records[-1].attempt):
            return
        self._records.append(record)
        if len(self._records) % _STATE_EVERY == 0:
            self._states.append((len(self._records), detector.state()))

    def _is_again(self, record: StepRecord) -> bool:
        return record.stage == self._records[-1].stage and record.step <= self._records[-1].step


def read_curve(path: Path) -> Iterator[StepRecord]:
    """The curve's steps as records. A missing gradient norm is NaN; each resume begins a new attempt."""
    rows = {".csv": _csv_rows, ".gz": _csv_rows, ".jsonl": _json_rows}.get(path.suffix)
    if rows is None or not path.is_file():
        raise CurveRefused(f"{path} is no recorded curve: give a .csv, .csv.gz or .jsonl file with the columns step and loss")
    resumes = 0
    with _opened(path) as file:
        for number, row in rows(file, path):
            resumes += _is_set(row.get("resumed"))
            yield _record(path, number, row, resumes)


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            yield file
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise CurveRefused(
            f"{path} cannot be read ({error}); give a .csv, .csv.gz or .jsonl file with the columns step and loss"
        ) from error


def _csv_rows(file: TextIO, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(file)
    missing = {"step", "loss"} - set(reader.fieldnames or ())
    if missing:
        raise CurveRefused(f"{path} has no column {' and no column '.join(sorted(missing))}; its first line must name step and loss")
    yield from enumerate(reader, start=2)


def _json_rows(file: TextIO, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(file, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CurveRefused(f"{path}, line {number}, is no JSON ({error}); each line must be an object with step and loss") from error
        if not isinstance(row, dict):
            raise CurveRefused(f"{path}, line {number}, is no object; each line must be an object with step and loss")
        yield number, row


def _record(path: Path, number: int, row: Mapping[str, Any], resumes: int) -> StepRecord:
    try:
        return StepRecord(
            attempt=int(row.get("attempt") or 1) + resumes,
            stage=str(row.get("stage") or ""),
            step=int(float(row["step"])),
            loss=_number(row["loss"]),
            grad_norm=_number(row.get("grad_norm")),
            lr=0.0,
            tokens=0,
            seconds=0.0,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CurveRefused(f"{path}, line {number}: {error!r}; step must be a whole number and loss a number") from error


def _number(value: object) -> float:
    """Nothing, and an empty field, are NaN."""
    return math.nan if value is None or value == "" else float(str(value))


def _is_set(value: object) -> bool:
    return str(value).strip().lower() in {"1", "1.0", "true", "yes"}
