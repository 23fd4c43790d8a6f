"""One record a step: what the trainer writes, and what everything else reads.

`metrics/<stage>/attempt_NN.jsonl` holds a JSON line a step, one file an attempt. Numbers are written so that
reading them back gives the same float (`repr` round-trips). The *accepted lineage* is the last attempt's
record of each step that still counts: a later attempt replaces everything from its first step on.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout
from k2.run.ledger import AttemptStarted, DataOperation, Fact

_END_BYTES = 4096  # about a dozen records


@dataclass(frozen=True)
class StepRecord:
    """What one step did. `loss` is the mean over the global batch, `grad_norm` is measured before clipping."""

    attempt: int
    stage: str
    step: int
    loss: float
    grad_norm: float
    lr: float
    tokens: int  # trained over the run, this step included
    seconds: float
    skipped_update: bool = False  # the optimizer refused a non-finite gradient
    at: float = 0.0  # wall clock, seconds since the epoch
    joules: float | None = None  # used by the recording host since the record before, where it counts them
    mfu: float | None = None  # of the devices' peak, attention's square counted whole (12 L d s); none where no peak is known
    mfu_causal: float | None = None  # the same with the half of it that a causal mask leaves
    loading_seconds: float = 0.0  # an attempt's first record: how long its checkpoint took to verify and load

    def line(self) -> str:
        """The record as one JSON line. NaN and infinities are written as Python reads them."""
        return json.dumps(asdict(self)) + "\n"


Branches = Mapping[int, list[StepRecord]]  # every attempt's records, the abandoned ones too, by attempt


def parse_record(line: bytes) -> StepRecord | None:
    """The record in `line`; None for a line that is torn or is no record."""
    try:
        fields = json.loads(line)
        return StepRecord(**fields)
    except (ValueError, TypeError):
        return None


def read_records(path: Path) -> Iterator[StepRecord]:
    """The records of one attempt in the order written. A torn last line is passed over."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            record = parse_record(line)
            if record is not None:
                yield record


def last_record(path: Path) -> StepRecord | None:
    """The record of one attempt that was written last. Only the end of the file is read: a stage of K2 has 338,760 lines."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        start = size = file.seek(0, os.SEEK_END)
        while start > 0:
            start = max(0, size - max(_END_BYTES, 2 * (size - start)))
            file.seek(start)
            for line in reversed(file.read(size - start).splitlines()):
                record = parse_record(line)
                if record is not None:
                    return record
    return None


class RecordTail:
    """Reads what was appended to a record file since the last look. A line still being written waits for its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new(self) -> list[StepRecord]:
        """The complete records that came since the last call."""
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        parsed = (parse_record(line) for line in whole.splitlines())
        return [record for record in parsed if record is not None]


def attempts_of(facts: list[Fact], stage: str) -> list[AttemptStarted]:
    """The stage's attempts in order."""
    return [fact for fact in facts if isinstance(fact, AttemptStarted) and fact.stage == stage]


def accepted_records(layout: RunLayout, facts: list[Fact], stage: str) -> list[StepRecord]:
    """The stage's accepted lineage: for each step that still counts the last attempt's record, by step."""
    return accepted_of(branches(layout, facts, stage), facts, stage)


def accepted_of(read: Branches, facts: list[Fact], stage: str) -> list[StepRecord]:
    """The stage's accepted lineage, from its branches as they were read."""
    accepted: dict[int, StepRecord] = {}
    for attempt in attempts_of(facts, stage):
        accepted = {step: record for step, record in accepted.items() if step < attempt.first_step}
        accepted |= {record.step: record for record in read[attempt.attempt]}
    return [accepted[step] for step in sorted(accepted)]


def branches(layout: RunLayout, facts: list[Fact], stage: str) -> Branches:
    """The stage's branches: what plots and evidence show."""
    return {a.attempt: list(read_records(layout.metrics(stage, a.attempt))) for a in attempts_of(facts, stage)}


def all_branches(layout: RunLayout, facts: list[Fact], recipe: Recipe) -> Mapping[str, Branches]:
    """The branches of every stage, by its name."""
    return {stage.name: branches(layout, facts, stage.name) for stage in recipe.stages}


def replayed_losses(read: Branches, facts: list[Fact], stage: str) -> dict[int, float]:
    """What an earlier attempt recorded of the steps that the stage's last attempt trains again, from the same state and data.

    Empty where the data was changed in between, or where the checkpoint is of an attempt that ended with it.
    """
    attempts = attempts_of(facts, stage)
    if not attempts:
        return {}
    newest = attempts[-1]
    for fact in reversed(facts[: facts.index(newest)]):
        if isinstance(fact, DataOperation) and fact.stage == stage:
            return {}
        if isinstance(fact, AttemptStarted) and fact.stage == stage and fact.first_step <= newest.first_step:
            again = {r.step: r.loss for r in read[fact.attempt] if r.step >= newest.first_step}
            if again or any(r.step == newest.first_step - 1 for r in read[fact.attempt]):
                return again
    return {}
