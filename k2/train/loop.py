"""The segment: from one checkpoint onward, step after step, to the stage's end or to a stop that was asked for.

What enters is a segment's description, an engine and a reader of samples. What leaves are step records, checkpoints
at every chunk end and every so many steps between, and how it ended. The ledger is read once and never written.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TextIO

import torch.distributed as dist

from k2.checkpoint.agreement import any_rank
from k2.checkpoint.commit import RECIPE, Commit
from k2.checkpoint.saving import NotSaved, Order, Saver
from k2.data.loader import SampleReader
from k2.model.peak import known_utilization
from k2.recipe.load import digest, to_toml
from k2.recipe.place import Place
from k2.recipe.schema import Recipe, Stage
from k2.recipe.world import in_world
from k2.run.alarms import raise_alarm
from k2.run.code import code_digest
from k2.run.control import read_stop_request
from k2.run.holdings import held_checkpoints
from k2.run.injection import strike
from k2.run.layout import RunLayout, rescue_name
from k2.run.ledger import UpdatesTempered, last_attempt, read_facts
from k2.run.receipt import Receipt, now, read_receipt
from k2.run.records import StepRecord
from k2.run.saving import Due, due_checkpoint
from k2.run.tempering import MISCOMPUTED, temper_at
from k2.train.engine import Engine
from k2.train.power import PowerMeter, on_one_host
from k2.train.resuming import load_checkpoint, refuse_if
from k2.train.schedule import fault_factor, learning_rate
from k2.train.step import StepResult, train_step
from k2.watch.canary import mismatch
from k2.watch.keeping import STATE_FILE, state_text
from k2.watch.spikes import Detector


@dataclass(frozen=True)
class Segment:
    """One launch of the trainer. `order_head` is the digest of the ledger as it was read; `last_step` ends it early.

    `probe`: it trains again, for that incident, what was trained before: it saves nothing.
    """

    recipe: Recipe
    layout: RunLayout
    stage: Stage
    attempt: int
    first_step: int
    checkpoint: str | None
    order_head: str
    place: Place = field(default_factory=Place)
    last_step: int | None = None
    recorded: Mapping[int, StepRecord] = field(default_factory=dict)  # what an earlier attempt recorded of the steps that come
    tempered: tuple[UpdatesTempered, ...] = ()
    probe: int | None = None

    @property
    def records(self) -> Path:
        """The file of its step records."""
        return self.layout.metrics(self.stage.name, self.attempt) if self.probe is None else self.layout.probe(self.probe)


def check_segment(segment: Segment) -> None:
    """Refuse a segment that does not fit the run directory, before anything is trained."""
    stage, layout = segment.stage, segment.layout
    if not 1 <= segment.first_step <= stage.steps:
        raise ValueError(f"--first-step {segment.first_step} lies outside of {stage.name}'s steps 1 to {stage.steps}")
    if segment.records.exists():
        raise ValueError(
            f"{segment.records} exists already: attempt {segment.attempt} was started before; every launch has a number of its own"
        )
    if segment.probe is not None:  # of a past that is still held, and it leaves none of its own
        return
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
        self._recipe = in_world(segment.recipe, segment.place.world)
        self._stage = self._recipe.stage(segment.stage.name)
        self._saver = Saver(dist.get_rank(), dist.get_world_size())
        engine.before_update(self._saver.before_update)
        self._inputs = input_digests(segment)
        self._tokens, self._exact = 0, False
        self._loading_seconds = 0.0  # until the first record has said it
        self._parent: str | None = None
        self._saving: Due | None = None
        self._meter = PowerMeter() if records is not None and on_one_host() else None  # the recording host's counters are all there are
        if segment.checkpoint is not None:
            began = time.perf_counter()
            parent = load_checkpoint(segment, engine, self._inputs)
            self._loading_seconds = time.perf_counter() - began
            self._tokens = parent.facts["tokens"]
            self._follow(parent)
            same_sums = parent.facts["arithmetic"] == engine.arithmetic and parent.facts.get("code") == code_digest()
            self._exact = same_sums and engine.arithmetic.startswith("cpu")
            self._by_attempt = parent.facts["attempt"]

    def run(self, terminated: Callable[[], bool]) -> Literal["completed", "stopped"]:
        """Train to the end of the stage, or until a stop is asked for: by the control file, or by a signal to any rank."""
        segment = self._segment
        for step in range(segment.first_step, self._stage.steps + 1):
            trained = not self._reader.is_skipped(step)
            if trained:
                self._train(step)
            due = due_checkpoint(segment.recipe, self._stage, step, trained) if segment.probe is None else None
            stop = step == segment.last_step or any_rank(terminated() or self._stop_requested())
            if stop and due is None and segment.probe is None:
                due = Due(rescue_name(self._stage.name, step), "stop")
            if due is not None:
                self._save(due, step)
            if stop:
                self._settle()
                return "stopped"
        self._settle()
        return "completed"

    def _stop_requested(self) -> bool:
        if self._records is None:  # one rank asks the disk; all agree
            return False
        request = read_stop_request(self._segment.layout)
        return request is not None and request.attempt == self._segment.attempt

    def _train(self, step: int) -> None:
        temper = temper_at(self._segment.tempered, step)
        if strike("step.begin", step) == "miscompute":  # a chip that computes wrongly: only for tests of what must tell it from bad data
            temper = MISCOMPUTED
        result = train_step(self._engine, self._recipe, self._stage, step, self._reader.step, temper)
        self._tokens += self._stage.tokens_per_step
        record, self._loading_seconds = self._record(step, result), 0.0
        if self._records is not None:
            self._records.write(record.line())
        if self._detector is not None:
            self._detector.observe(record)
        if step in self._segment.recorded:
            self._hold_against_the_record(record)

    def _hold_against_the_record(self, record: StepRecord) -> None:
        """The canary: a step that an earlier attempt has trained too must come out the same."""
        exact = self._exact and self._segment.recorded[record.step].attempt == self._by_attempt
        refuse_if(self._segment, record.step, mismatch(self._segment.recorded, record, exact))

    def _record(self, step: int, result: StepResult) -> StepRecord:
        rate = self._stage.tokens_per_step / result.seconds / self._recipe.layout.ranks  # of one device
        used = known_utilization(self._recipe.model, self._stage.context, rate, self._engine.device_name)
        return StepRecord(
            attempt=self._segment.attempt,
            stage=self._stage.name,
            step=step,
            loss=result.loss,
            grad_norm=result.grad_norm,
            lr=result.lr,
            tokens=self._tokens,
            seconds=result.seconds,
            skipped_update=not result.updated,
            at=time.time(),
            joules=None if self._meter is None else self._meter.joules(),
            mfu=None if used is None else used.full,
            mfu_causal=None if used is None else used.causal,
            loading_seconds=self._loading_seconds,
        )

    def _save(self, due: Due, step: int) -> None:
        """Begin to save; what began before is settled first. Where the place wants it, wait."""
        self._settle()
        strike("ckpt.begin", step)
        self._saving = due
        commit = Commit(self._segment.layout.checkpoint(due.name), self._segment.attempt, dist.get_world_size())
        order = Order(commit, self._receipt(due, step), self._texts(), self._sync_records, self._is_current)
        self._saver.begin(order, self._engine.state())
        if self._segment.place.saving == "waiting":
            self._settle()

    def _texts(self) -> dict[str, str]:
        """The small files of a checkpoint: the recipe, and the detector's state as it stands now."""
        detector = {STATE_FILE: state_text(self._detector)} if self._detector is not None else {}
        return {RECIPE: to_toml(self._segment.recipe)} | detector

    def _settle(self) -> None:
        """Wait for the checkpoint on its way. A rescue that the disk would not take is an alarm; a chunk's ends the segment."""
        try:
            receipt = self._saver.settle()
        except NotSaved as problem:
            if self._saving is None or self._saving.kind != "rescue":
                raise
            if self._records is not None:
                raise_alarm(str(problem))
            return
        if receipt is not None:
            self._follow(receipt)

    def _follow(self, parent: Receipt) -> None:
        """The next checkpoint names this one, so that neither can be exchanged unseen."""
        self._inputs["parent"], self._parent = parent.digest, parent.name

    def _is_current(self) -> bool:
        """Whether no newer attempt has begun: one that was given up and wakes again commits nothing."""
        return last_attempt(read_facts(self._segment.layout.ledger)) <= self._segment.attempt

    def _sync_records(self) -> None:
        """Force the records to the disk: after a power loss no checkpoint stands without the records before it."""
        assert self._records is not None
        try:
            os.fsync(self._records.fileno())
        except OSError as error:
            raise OSError(error.errno, f"the step records could not be forced to the disk: {error.strerror}") from error

    def _receipt(self, due: Due, step: int) -> Receipt:
        segment, layout, world = self._segment, self._segment.layout, self._recipe.layout
        position = (step - 1) // self._stage.steps_per_chunk
        factor = fault_factor(segment.recipe.faults, self._stage.name, step)
        return Receipt(
            kind="checkpoint",
            name=due.name,
            recipe=digest(segment.recipe),
            made_at=now(),
            inputs=dict(self._inputs),
            facts={
                "run": layout.name,
                "code": code_digest(),
                "kind": due.kind,
                "stage": self._stage.name,
                "step": step,
                "tokens": self._tokens,
                "attempt": segment.attempt,
                "parent": self._parent,
                "lr": learning_rate(self._stage.schedule, step, self._stage.steps) * factor,
                "layout": world.model_dump(mode="json"),
                "precision": world.precision,
                "seed": segment.recipe.seed,  # with the step all there is to know of chance: training draws no numbers
                "arithmetic": self._engine.arithmetic,
                "order_head": segment.order_head,
                "position": position,
                "chunk": self._reader.order[position],
            },
        )


def input_digests(segment: Segment) -> dict[str, str]:
    """What the training rests on: the recipe, the tokenizer, all chunks."""
    layout = segment.layout
    return {
        "recipe": digest(segment.recipe),
        "tokenizer": read_receipt(layout.tokenizer).digest,
        "chunks": read_receipt(layout.all_chunks).digest,
    }
