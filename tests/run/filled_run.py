"""Filling a run directory by hand: receipts and records as the parts of a run leave them."""

from pathlib import Path

from k2.run.durable import remove_folder
from k2.run.holdings import DUTIES, Duty, duty_folder
from k2.run.layout import RunLayout, checkpoint_name, rescue_name
from k2.run.ledger import AttemptStarted
from k2.run.receipt import Receipt, commit_receipt_only, now
from k2.run.records import StepRecord

ALL_CHUNKS = (("stage1", 8), ("stage1", 16), ("stage1", 24), ("stage2", 4))  # the stage and step of each chunk's checkpoint


def started(attempt: int, first_step: int = 1, stage: str = "stage1", checkpoint: str | None = None) -> AttemptStarted:
    return AttemptStarted(attempt=attempt, stage=stage, checkpoint=checkpoint, first_step=first_step)


def record(attempt: int, step: int, stage: str = "stage1") -> StepRecord:
    """A record whose loss tells its attempt and step."""
    return StepRecord(attempt, stage, step, attempt + step / 1000, 0.4, 1e-3, 128 * step, 2.0, at=1_000_000.0 + step)


def write_records(layout: RunLayout, attempt: int, *steps: int, stage: str = "stage1") -> Path:
    path = layout.metrics(stage, attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(record(attempt, step, stage).line() for step in steps)
    return path


def lay(folder: Path, kind: str, facts: dict[str, object] | None = None) -> None:
    commit_receipt_only(folder, Receipt(kind=kind, name=folder.name, recipe="r", made_at=now(), facts=facts or {}))


def lay_prepared(layout: RunLayout, suite: str) -> None:
    lay(layout.all_chunks, "chunks")
    lay(layout.suite(suite), "suite")


def lay_chunk(layout: RunLayout, number: int, settled: tuple[Duty, ...] = (), tokens: int | None = None) -> None:
    """The checkpoint of a chunk, with the receipts of the duties that are settled."""
    stage, step = ALL_CHUNKS[number - 1]
    lay_checkpoint(layout, checkpoint_name(number), "chunk", stage, step, tokens)
    for duty in settled:
        lay(duty_folder(layout, checkpoint_name(number), duty), duty)


def lay_rescue(layout: RunLayout, stage: str, step: int, kind: str = "rescue") -> None:
    lay_checkpoint(layout, rescue_name(stage, step), kind, stage, step)


def lay_checkpoint(layout: RunLayout, name: str, kind: str, stage: str, step: int, tokens: int | None = None) -> None:
    tokens = 128 * step if tokens is None else tokens
    lay(layout.checkpoint(name), "checkpoint", {"kind": kind, "stage": stage, "step": step, "tokens": tokens})


def lay_all_trained(layout: RunLayout, suite: str, settled: tuple[Duty, ...] = DUTIES) -> None:
    lay_prepared(layout, suite)
    for number in range(1, len(ALL_CHUNKS) + 1):
        lay_chunk(layout, number, settled)


def make_anew(layout: RunLayout, number: int, tokens: int) -> None:
    """What a rollback does to a checkpoint in the end: another one under its name."""
    remove_folder(layout.checkpoint(checkpoint_name(number)))
    lay_chunk(layout, number, tokens=tokens)
