"""What a run directory holds: a reading of its receipts, as plain values that decisions can be made on.

Nothing here judges. A checkpoint is held when its receipt stands in its renamed folder; whether its bytes still
agree with the receipt is verified before every load, and as its first duty.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout
from k2.run.ledger import Fact
from k2.run.receipt import RECEIPT, BrokenOutput, Receipt, find_receipt, read_receipt
from k2.run.records import attempts_of, last_record

Duty = Literal["verified", "exported", "evaluated", "published", "shown"]
DUTIES: tuple[Duty, ...] = get_args(Duty)  # in the order in which they are settled


@dataclass(frozen=True)
class HeldCheckpoint:
    """One committed checkpoint. `chunk` ends a chunk, `rescue` comes by steps, `stop` was asked for, `imported` is begun from."""

    name: str
    kind: Literal["chunk", "rescue", "stop", "imported"]
    stage: str
    step: int
    tokens: int
    settled: frozenset[Duty] = frozenset()


@dataclass(frozen=True)
class Holdings:
    """All that `next_action` needs to know of the disk."""

    prepared: bool
    checkpoints: tuple[HeldCheckpoint, ...]  # by the order of the stages, then by step
    reached: Mapping[str, int]  # last trained step of each stage's last attempt
    released: bool

    def names(self) -> frozenset[str]:
        return frozenset(c.name for c in self.checkpoints)

    def of_stage(self, stage: str) -> list[HeldCheckpoint]:
        return [c for c in self.checkpoints if c.stage == stage]


def duty_folder(layout: RunLayout, checkpoint: str, duty: Duty) -> Path:
    """Where the receipt of a settled duty lies."""
    folders = {
        "verified": layout.verified,
        "exported": layout.export,
        "evaluated": layout.scores,
        "published": layout.published,
        "shown": layout.shown,
    }
    return folders[duty](checkpoint)


def read_holdings(recipe: Recipe, layout: RunLayout, facts: list[Fact]) -> Holdings:
    """Read the run directory. Cheap enough to be called once a second: receipts never change once written."""
    return Holdings(
        prepared=all(find_receipt(path) is not None for path in (layout.all_chunks, *map(layout.suite, recipe.evaluation.suites))),
        checkpoints=tuple(held_checkpoints(recipe, layout)),
        reached={stage.name: _reached(layout, facts, stage.name) for stage in recipe.stages},
        released=find_receipt(layout.release) is not None,
    )


def held_checkpoints(recipe: Recipe, layout: RunLayout) -> list[HeldCheckpoint]:
    """Every committed checkpoint, by stage and step; at the same step a chunk's comes last."""
    order = {stage.name: position for position, stage in enumerate(recipe.stages)}
    found = []
    for path in layout.checkpoints.glob(f"*/{RECEIPT}"):
        if path.parent.name.startswith("."):
            continue
        try:
            receipt = _receipt_once(path, path.stat().st_mtime_ns)
        except (BrokenOutput, FileNotFoundError):
            continue
        found.append(_held(layout, receipt))
    return sorted(found, key=lambda c: (order[c.stage], c.step, c.kind == "chunk"))


def _held(layout: RunLayout, receipt: Receipt) -> HeldCheckpoint:
    facts = receipt.facts
    settled = frozenset(duty for duty in DUTIES if (duty_folder(layout, receipt.name, duty) / RECEIPT).is_file())
    return HeldCheckpoint(receipt.name, facts["kind"], facts["stage"], facts["step"], facts["tokens"], settled)


@lru_cache(maxsize=4096)
def _receipt_once(path: Path, _written_ns: int) -> Receipt:
    """A receipt is read once, and again when another stands in its place: a rollback makes a checkpoint anew."""
    return read_receipt(path)


def _reached(layout: RunLayout, facts: list[Fact], stage: str) -> int:
    attempts = attempts_of(facts, stage)
    if not attempts:
        return 0
    newest = attempts[-1]
    record = last_record(layout.metrics(stage, newest.attempt))
    return newest.first_step - 1 if record is None else record.step
