"""The page's tables: the declared mix beside what the chunks hold, and the checkpoints with what they are owed.

Recipe, receipts and the accepted lineage enter; rows leave.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from k2.recipe.schema import MixEntry, Recipe, Stage
from k2.report.lineage import Lineage
from k2.run.holdings import DUTIES, Duty
from k2.run.receipt import Receipt
from k2.run.status import CheckpointStatus


@dataclass(frozen=True)
class MixRow:
    subset: str
    domain: str
    repeat: str
    declared: float | None
    actual: float | None
    samples: int | None
    tokens: float | None
    per_chunk: str


@dataclass(frozen=True)
class MixTable:
    stage: str
    rows: tuple[MixRow, ...]
    unpublished_tokens: float
    unpublished_share: float
    declares: bool  # whether any share was published
    widest: float  # the largest fraction: the full width of a bar


@dataclass(frozen=True)
class DutyMark:
    duty: Duty
    state: str  # settled, owed, none


@dataclass(frozen=True)
class CheckpointRow:
    name: str
    stage: str
    step: int
    tokens: int
    loss: float | None
    lr: float | None
    duties: tuple[DutyMark, ...]


def stage_mix(recipe: Recipe, stage: Stage, chunks: Receipt | None) -> MixTable:
    """The declared mix beside what the chunks hold."""
    counted = _path(chunks.facts if chunks else {}, "stages", stage.name, "subsets")
    domains = {subset.name: subset.domain for subset in recipe.data.subsets}
    rows = tuple(_mix_row(stage, entry, domains[entry.subset], counted.get(entry.subset, {})) for entry in stage.mix)
    return MixTable(
        stage=stage.name,
        rows=rows,
        unpublished_tokens=stage.unpublished_tokens,
        unpublished_share=stage.unpublished_tokens / stage.tokens,
        declares=any(row.declared for row in rows),
        widest=max((share for row in rows for share in (row.declared, row.actual) if share), default=1.0),
    )


def _mix_row(stage: Stage, entry: MixEntry, domain: str, counted: Mapping[str, Any]) -> MixRow:
    low, high = counted.get("per_chunk_min"), counted.get("per_chunk_max")
    by_tokens = None if entry.tokens is None else entry.tokens / stage.tokens
    return MixRow(
        subset=entry.subset,
        domain=domain,
        repeat=f"{entry.repeat:g}×",
        declared=by_tokens if entry.fraction is None else entry.fraction,
        actual=counted.get("fraction"),
        samples=counted.get("samples"),
        tokens=counted.get("tokens", entry.tokens),
        per_chunk="" if low is None else f"{low:,}" if low == high else f"{low:,}–{high:,}",
    )


def _path(facts: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    for key in keys:
        facts = facts.get(key, {})
    return facts


def checkpoint_row(lineage: Lineage, held: CheckpointStatus) -> CheckpointRow:
    record = lineage.of(held.stage).last_until(held.step)
    states = {True: "settled", False: "owed", None: "none"}
    marks = tuple(DutyMark(duty, states[held.obligations.get(duty)]) for duty in DUTIES)
    return CheckpointRow(
        held.name, held.stage, held.step, held.tokens, record.loss if record else None, record.lr if record else None, marks
    )
