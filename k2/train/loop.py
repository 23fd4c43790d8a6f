"""The segment: from one checkpoint onward, step after step, to the stage's end or to a stop that was asked for.

What enters is a segment's description, an engine and a reader of samples. What leaves are step records, checkpoints
at every chunk end and every so many steps between, and how it ended. The ledger is read once and never written.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from k2.checkpoint.commit import STATE, AgreedProblem, agree, any_rank, commit_checkpoint, verify_together
from k2.data.loader import SampleReader
from k2.recipe.load import digest
from k2.recipe.schema import Recipe, Stage
from k2.run.control import read_stop_request
from k2.run.holdings import held_checkpoints
from k2.run.layout import RunLayout, rescue_name
from k2.run.receipt import Receipt, now, read_receipt
from k2.run.records import StepRecord
from k2.run.saving import Due, due_checkpoint
from k2.train.engine import Engine
from k2.train.schedule import fault_factor, learning_rate
from k2.train.step import StepResult, train_step
from k2.watch.keeping import write_state
from k2.watch.spikes import Detector


@dataclass(frozen=True)
class Segment:
    """One launch of the trainer. `order_head` is the digest of the ledger as it was read."""

    recipe: Recipe
    layout: RunLayout
    stage: Stage
    attempt: int
    first_step: int
    checkpoint: str | None
    order_head: str


def check_segment(segment: Segment) -> None:
    """Refuse a segment that does not fit the run directory, before anything is trained."""
    stage, layout = segment.stage, segment.layout
    if not 1 <= segment.first_step <= stage.steps:
        raise ValueError(f"--first-step {segment.first_step} lies outside of {stage.name}'s steps 1 to {stage.steps}")
    metrics = layout.metrics(stage.name, segment.attempt)
    if metrics.exists():
        raise ValueError(f"{metrics} exists already: attempt {segment.attempt} was started before; every launch has a number of its own")
    ahead = [c.name for c in held_checkpoints(segment.recipe, layout) if c.stage == stage.name and c.step >= segment.first_step]
    if ahead:
        raise ValueError(
            f"--first-step {segment.first_step} lies before the checkpoints {', '.join(ahead)}; start after them or set them aside"
        )


class Loop:
    """A segment being trained on this rank. Global rank 0 has `records` open, and the `detector` whose state checkpoints keep."""

    def __init__(
        self, segment: Segment, engine: Engine, reader: SampleReader, records: TextIO | None, detector: Detector | None = None
    ) -> None:
        self._segment, self._engine, self._reader, self._records, self._detector = segment, engine, reader, records, detector
        self._inputs = {"recipe": digest(segment.recipe), "chunks": read_receipt(segment.layout.all_chunks).digest}
        self._tokens = 0
        if segment.checkpoint is not None:
            self._load(segment.checkpoint)

    def run(self, terminated: Callable[[], bool]) -> Literal["completed", "stopped"]:
        """Train to the end of the stage, or until a stop is asked for: by the control file, or by a signal to any rank."""
        segment = self._segment
        for step in range(segment.first_step, segment.stage.steps + 1):
            trained = not self._reader.is_skipped(step)
            if trained:
                self._train(step)
            due = due_checkpoint(segment.recipe, segment.stage, step, trained)
            stop = any_rank(terminated() or self._stop_requested())
            if stop and due is None:
                due = Due(rescue_name(segment.stage.name, step), "stop")
            if due is not None:
                self._save(due, step)
            if stop:
                return "stopped"
        return "completed"

    def _stop_requested(self) -> bool:
        if self._records is None:  # one rank asks the disk; all agree
            return False
        request = read_stop_request(self._segment.layout)
        return request is not None and request.attempt == self._segment.attempt

    def _train(self, step: int) -> None:
        segment = self._segment
        result = train_step(self._engine, segment.recipe, segment.stage, step, self._reader.step)
        self._tokens += segment.stage.tokens_per_step
        if self._records is not None:
            record = self._record(step, result)
            self._records.write(record.line())
            if self._detector is not None:
                self._detector.observe(record)

    def _record(self, step: int, result: StepResult) -> StepRecord:
        return StepRecord(
            attempt=self._segment.attempt,
            stage=self._segment.stage.name,
            step=step,
            loss=result.loss,
            grad_norm=result.grad_norm,
            lr=result.lr,
            tokens=self._tokens,
            seconds=result.seconds,
            skipped_update=not result.updated,
            at=time.time(),
        )

    def _load(self, name: str) -> None:
        folder = self._segment.layout.checkpoint(name)
        receipt = verify_together(folder)
        if receipt.recipe != self._inputs["recipe"]:
            raise AgreedProblem(
                f"checkpoint {name} is of another recipe ({receipt.recipe[:12]}, the run's is {self._inputs['recipe'][:12]})"
            )
        kept = self._engine.load_state(folder / STATE)
        assert kept == {"step": receipt.facts["step"], "tokens": receipt.facts["tokens"]}, (
            f"{folder} holds another state than its receipt says"
        )
        self._tokens = receipt.facts["tokens"]
        self._inputs["parent"] = receipt.digest

    def _save(self, due: Due, step: int) -> None:
        lost = self._engine.non_finite_weights()
        agree(
            f"after step {step} {lost} weights are not finite: {due.name} is not saved; go back to an earlier checkpoint" if lost else None
        )
        agree(self._sync_records())
        counters = {"step": step, "tokens": self._tokens}
        target = self._segment.layout.checkpoint(due.name)
        commit_checkpoint(target, self._receipt(due, step), lambda folder: self._write(folder, counters))

    def _write(self, folder: Path, counters: dict[str, int]) -> str | None:
        """This rank's files of the checkpoint; the detector's state lies beside the engine's folder."""
        if self._detector is not None:
            write_state(folder.parent, self._detector)
        return self._engine.write_state(folder, counters)

    def _sync_records(self) -> str | None:
        """Force the records to the disk, or say why not: after a power loss no checkpoint stands without the records before it."""
        if self._records is None:
            return None
        try:
            self._records.flush()
            os.fsync(self._records.fileno())
        except OSError as error:
            return f"the step records could not be forced to the disk: {error}. The earlier checkpoints are untouched; resume the run"
        return None

    def _receipt(self, due: Due, step: int) -> Receipt:
        segment, layout = self._segment, self._segment.recipe.layout
        position = (step - 1) // segment.stage.steps_per_chunk
        factor = fault_factor(segment.recipe.faults, segment.stage.name, step)
        return Receipt(
            kind="checkpoint",
            name=due.name,
            recipe=self._inputs["recipe"],
            made_at=now(),
            inputs=self._inputs,
            facts={
                "kind": due.kind,
                "stage": segment.stage.name,
                "step": step,
                "tokens": self._tokens,
                "attempt": segment.attempt,
                "lr": learning_rate(segment.stage.schedule, step, segment.stage.steps) * factor,
                "layout": {"pipeline": layout.pipeline, "data": layout.data, "tensor": layout.tensor},
                "precision": layout.precision,
                "order_head": segment.order_head,
                "position": position,
                "chunk": self._reader.order[position],
            },
        )
