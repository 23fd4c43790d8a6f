"""A run directory that tells a whole story, written through the same functions as a real run: two stages, one spike
healed by a rollback, one crash, every duty settled."""

import math
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from k2.recipe.load import digest, to_toml
from k2.recipe.schema import Recipe, Stage
from k2.run.durable import durable_folder
from k2.run.holdings import DUTIES
from k2.run.layout import RunLayout, checkpoint_name, rescue_name
from k2.run.ledger import (
    AttemptEnded,
    AttemptStarted,
    Fact,
    IncidentClosed,
    IncidentDecided,
    IncidentOpened,
    RunCreated,
    StepsSkipped,
    append_facts,
)
from k2.run.receipt import Receipt, commit_receipt_only, seal_folder
from k2.run.records import StepRecord

START = 1_790_000_000.0
ONSET, VERDICT, TARGET = 268, 276, 260
TASKS = (
    ("next_identifier", 0, "acc", 0.25, 0.61, True),
    ("held_out_prose", 0, "bits_per_byte", 4.9, 2.2, False),
    ("arithmetic", 3, "exact_match", 0.0, 0.31, True),
    ("pair_preference", 0, "pct_stereotype", 0.5, 0.54, False),
)
DOMAINS = ("prose", "code", "law")


@dataclass
class Writer:
    """Writes a run as its parts would, with a clock of its own."""

    recipe: Recipe
    layout: RunLayout
    clock: float = START
    tokens: int = 0
    chance: random.Random = field(default_factory=lambda: random.Random(7))

    @property
    def at(self) -> str:
        return datetime.fromtimestamp(self.clock, UTC).isoformat(timespec="milliseconds")

    def fact(self, fact: Fact) -> None:
        self.clock += 1.0
        append_facts(self.layout.ledger, fact.model_copy(update={"at": self.at}))

    def create(self) -> None:
        self.layout.root.mkdir(parents=True)
        self.layout.recipe.write_text(to_toml(self.recipe))
        self.fact(RunCreated(run=self.layout.name, recipe=digest(self.recipe), recipe_name=self.recipe.name))

    def receipt(self, folder: Path, kind: str, facts: dict[str, object], files: dict[str, str] | None = None) -> None:
        receipt = Receipt(kind=kind, name=folder.name, recipe=digest(self.recipe), made_at=self.at, facts=facts)
        if files is None:
            commit_receipt_only(folder, receipt)
            return
        with durable_folder(folder) as beside:
            for name, text in files.items():
                (beside / name).write_text(text)
            seal_folder(beside, receipt)

    def prepare(self) -> None:
        self.clock += 14.0
        stages: dict[str, object] = {}
        for stage in self.recipe.stages:
            counts = {entry.subset: 1 + (7 * position) % 11 for position, entry in enumerate(stage.mix)}
            whole = sum(counts.values())
            samples = stage.samples_per_chunk * stage.chunks
            stages[stage.name] = {
                "samples": samples,
                "tokens": samples * stage.context,
                "remainder": {},
                "subsets": {
                    entry.subset: {
                        "repeat": entry.repeat,
                        "samples": round(samples * counts[entry.subset] / whole),
                        "tokens": round(samples * counts[entry.subset] / whole) * stage.context,
                        "fraction": counts[entry.subset] / whole,
                        "per_chunk_min": round(stage.samples_per_chunk * counts[entry.subset] / whole),
                        "per_chunk_max": round(stage.samples_per_chunk * counts[entry.subset] / whole) + 1,
                    }
                    for entry in stage.mix
                },
            }
        self.receipt(self.layout.all_chunks, "chunks", {"stages": stages, "documents": 120, "held_out": 12})
        self.receipt(self.layout.suite(self.recipe.evaluation.suite), "suite", {})

    def train(
        self, stage: Stage, attempt: int, checkpoint: str | None, first: int, last: int, spiked: bool = False, skip_to: int = 0
    ) -> None:
        """Steps `first` to `last` of one attempt, their records and checkpoints; those up to `skip_to` are not trained."""
        self.fact(AttemptStarted(attempt=attempt, stage=stage.name, checkpoint=checkpoint, first_step=first))
        self.clock += 2.5
        path = self.layout.metrics(stage.name, attempt)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            for step in range(max(first, skip_to + 1), last + 1):
                file.write(self.record(stage, attempt, step, spiked).line())
                self.save(stage, attempt, step)

    def record(self, stage: Stage, attempt: int, step: int, spiked: bool) -> StepRecord:
        seconds = 0.11 + 0.02 * self.chance.random()
        self.clock += seconds
        self.tokens += stage.tokens_per_step
        late = 0.35 if stage.name == "stage2" else 0.0
        loss = 2.6 - late + 3.6 * math.exp(-(step + 480 * bool(late)) / 110) + self.chance.gauss(0, 0.07)
        norm = 0.5 + 2.2 * math.exp(-step / 60) + abs(self.chance.gauss(0, 0.12))
        if spiked and step >= ONSET:
            loss += 3.4 * (1 - math.exp(-(step - ONSET + 1) / 2.5))
            norm *= 14 if step < ONSET + 3 else 2
        known = (0.444, 0.436) if stage.name == "stage2" else (None, None)  # as if its device had a peak
        return StepRecord(
            attempt,
            stage.name,
            step,
            loss,
            norm,
            rate(stage, step),
            self.tokens,
            seconds,
            at=self.clock,
            mfu=known[0],
            mfu_causal=known[1],
        )

    def save(self, stage: Stage, attempt: int, step: int) -> None:
        ends_chunk = step % stage.steps_per_chunk == 0
        if not ends_chunk and step % self.recipe.checkpoints.rescue_every_steps:
            return
        self.clock += 0.4
        number = self.recipe.first_checkpoint_number(stage.name) + step // stage.steps_per_chunk
        name = checkpoint_name(number) if ends_chunk else rescue_name(stage.name, step)
        if not self.layout.checkpoint(name).exists():
            facts = {
                "kind": "chunk" if ends_chunk else "rescue",
                "stage": stage.name,
                "step": step,
                "tokens": self.tokens,
                "attempt": attempt,
            }
            self.receipt(self.layout.checkpoint(name), "checkpoint", facts, {"weights.bin": name})

    def settle(self, number: int, duties: tuple[str, ...] = DUTIES) -> None:
        """The duties of one checkpoint, but for `shown`, which the page itself settles."""
        name = checkpoint_name(number)
        stage = next(s for s in reversed(self.recipe.stages) if number > self.recipe.first_checkpoint_number(s.name))
        step = (number - self.recipe.first_checkpoint_number(stage.name)) * stage.steps_per_chunk
        self.clock += 1.5
        if "verified" in duties:
            self.receipt(self.layout.verified(name), "verified", {})
        if "exported" in duties:
            facts: dict[str, object] = {
                "max_abs_logit_difference": 0.0,
                "parameters": 53_856,
                "stage": stage.name,
                "context": stage.context,
            }
            self.receipt(self.layout.export(name), "export", facts, {"config.json": "{}"})
        if "evaluated" in duties:
            scores = [self.score(task, number) for task in TASKS]
            facts = {
                "stage": stage.name,
                "step": step,
                "tokens": 512 * number,
                "suite": "k2_tiny",
                "suites": ["k2_tiny"],
                "tasks": {str(score["task"]): "0" * 64 for score in scores},
                "harness": "0.4.13",
                "data": "0",
                "scores": scores,
            }
            self.receipt(self.layout.scores(name), "scores", facts)
        if "published" in duties:
            self.receipt(self.layout.published(name), "published", {"targets": []})
        if "shown" in duties:
            self.receipt(self.layout.shown(name), "shown", {})

    def score(self, task: tuple[str, int, str, float, float, bool], number: int) -> dict[str, object]:
        name, shots, metric, first, last, higher = task
        value = last + (first - last) * math.exp(-number / 5) + self.chance.gauss(0, 0.012)
        stderr = None if metric == "bits_per_byte" else 0.05
        return {"task": name, "shots": shots, "metric": metric, "value": value, "stderr": stderr, "samples": 60, "higher_is_better": higher}

    def spike(self, attempt: int) -> None:
        """The incident of attempt 1: opened, decided by the policy, closed."""
        evidence = {"z": 41.25, "rise_nats": 3.21, "reference": 2.93, "deviation": 0.078, "small_grad_fraction": 0.625}
        self.fact(
            IncidentOpened(
                incident=1,
                stage="stage1",
                attempt=attempt,
                kind="malignant.long",
                onset_step=ONSET,
                verdict_step=VERDICT,
                evidence=evidence,
            )
        )
        self.fact(AttemptEnded(attempt=attempt, outcome="stopped", exit_code=0, reason="incident 1"))
        self.fact(IncidentDecided(incident=1, action="rollback", checkpoint=rescue_name("stage1", TARGET), data="skip"))
        self.fact(StepsSkipped(stage="stage1", first_step=TARGET + 1, last_step=VERDICT, who="policy", why="incident 1"))
        self.receipt(self.layout.incident(1), "incident", {"incident": 1}, {"records.jsonl": "", "summary.md": "# Incident 1"})
        self.tokens -= 20 * self.recipe.stages[0].tokens_per_step
        self.fact(IncidentClosed(incident=1, abandoned=("rescue_stage1_000280",)))


def rate(stage: Stage, step: int) -> float:
    """The stage's learning rate."""
    plan = stage.schedule
    if step <= plan.warmup_steps:
        return plan.peak * step / plan.warmup_steps
    done = (step - plan.warmup_steps) / (stage.steps - plan.warmup_steps)
    left = (1 + math.cos(math.pi * done)) / 2 if plan.kind == "cosine" else 1 - done
    return plan.final + left * (plan.peak - plan.final)


def tell_whole_story(writer: Writer) -> None:
    """From preparation to release."""
    one, two = writer.recipe.stages
    writer.prepare()
    writer.train(one, 1, None, 1, 279, spiked=True)
    writer.spike(1)
    writer.train(one, 2, rescue_name("stage1", TARGET), TARGET + 1, one.steps, skip_to=VERDICT)
    writer.fact(AttemptEnded(attempt=2, outcome="completed", exit_code=0))
    writer.train(two, 3, checkpoint_name(12), 1, 33)
    writer.fact(AttemptEnded(attempt=3, outcome="crashed", exit_code=-9, reason="rank 1 was killed"))
    writer.tokens -= 13 * two.tokens_per_step
    writer.train(two, 4, checkpoint_name(13), 21, two.steps)
    writer.fact(AttemptEnded(attempt=4, outcome="completed", exit_code=0))
    for number in range(1, 17):
        published = number == 16 or number % 3 == 0
        writer.settle(number, DUTIES if published else tuple(duty for duty in DUTIES if duty != "published"))
    writer.receipt(writer.layout.release, "release", {})
