"""What stands on the page: every section as plain values, ready to be laid out.

Recipe, run directory and ledger enter, a `Content` leaves. A section whose part of the run does not exist yet is
empty, and the page leaves it out or says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

from k2.recipe.load import digest
from k2.recipe.schema import Recipe
from k2.report.curves import Drawn, gradient_curve, hover_points, learning_rate_curve, loss_curve
from k2.report.energy import EnergyUse, energy_use, seconds_of
from k2.report.lineage import Lineage, StageLineage, read_lineage
from k2.report.panels import ScorePanel, score_panels
from k2.report.story import IncidentStory, TimelineEntry, incident_stories, timeline
from k2.report.tables import CheckpointRow, MixTable, checkpoint_row, stage_mix
from k2.report.words import count, duration, loss, number, percent
from k2.run.goodput import booked_seconds
from k2.run.holdings import DUTIES, Duty
from k2.run.layout import RunLayout, checkpoint_name
from k2.run.ledger import Fact, StepsSkipped
from k2.run.receipt import Receipt, find_receipt
from k2.run.status import Status, status_of

CAUSE_WORDS = {
    "productive": "steps that count",
    "rework_spike": "steps given up after a spike",
    "rework_fault": "steps lost to a crash or stop",
    "ckpt_load": "loading checkpoints",
    "ckpt_stall": "saving checkpoints",
    "eval_stall": "evaluating and publishing after training",
    "data_stall": "preparing the data",
    "hang": "a trainer that hung",
    "startup": "starting the trainer",
    "sched_wait": "stopped, not yet resumed",
    "human_wait": "waiting for a decision",
    "other": "between steps",
}


@dataclass(frozen=True)
class Figure:
    """One key figure: a value and what it means."""

    label: str
    value: str
    remark: str = ""


@dataclass(frozen=True)
class Cell:
    """One chunk in the progress strip."""

    title: str
    share: float  # of it trained


@dataclass(frozen=True)
class Strip:
    stage: str
    remark: str
    weight: int  # steps
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class TimeShare:
    cause: str
    words: str
    seconds: float
    share: float


@dataclass(frozen=True)
class Content:
    """The page, section by section."""

    recipe: Recipe
    recipe_digest: str
    status: Status
    written_at: str
    lede: str
    figures: tuple[Figure, ...]
    progress: float
    time_left: str | None
    strips: tuple[Strip, ...]
    loss: Drawn | None
    gradient: Drawn | None
    rate: Drawn | None
    hover: list[list[float | str]]
    skips: bool
    incidents: tuple[IncidentStory, ...]
    scores: tuple[ScorePanel, ...]
    mixes: tuple[MixTable, ...]
    mix_counted: bool
    checkpoints: tuple[CheckpointRow, ...]
    duties: tuple[Duty, ...]
    time: tuple[TimeShare, ...]
    speeds: tuple[Figure, ...]
    energy: EnergyUse
    events: tuple[TimelineEntry, ...]
    gallery: bool

    @property
    def state(self) -> str:
        """The run's state; a run whose every checkpoint is settled is done, also on the page that its release publishes."""
        expected = sum(stage.chunks for stage in self.recipe.stages)
        settled = len(self.status.checkpoints) == expected and all(all(c.obligations.values()) for c in self.status.checkpoints)
        return "done" if settled else self.status.state


def read_content(recipe: Recipe, layout: RunLayout, facts: list[Fact], now: float) -> Content:
    """Read the run directory and lay out what it says at `now` (seconds since the epoch)."""
    lineage = read_lineage(recipe, layout, facts)
    records = lineage.branches
    status = status_of(recipe, layout, facts, records)
    chunks, exported = find_receipt(layout.all_chunks), _newest_export(layout, status)
    until = _lived_until(layout, status, now)
    stories, begun = incident_stories(lineage, facts), bool(lineage.accepted)
    return Content(
        recipe=recipe,
        recipe_digest=digest(recipe),
        status=status,
        written_at=datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        lede=_lede(recipe, exported),
        figures=tuple(_figures(lineage, status, stories)),
        progress=lineage.reached / lineage.total_steps,
        time_left=_time_left(lineage, status),
        strips=tuple(_strip(recipe, part) for part in lineage.stages),
        loss=loss_curve(lineage, facts) if begun else None,
        gradient=gradient_curve(lineage, facts) if begun else None,
        rate=learning_rate_curve(lineage, facts) if begun else None,
        hover=hover_points(lineage),
        skips=any(isinstance(fact, StepsSkipped) for fact in facts),
        incidents=stories,
        scores=tuple(score_panels(layout, lineage)),
        mixes=tuple(stage_mix(recipe, stage, chunks) for stage in recipe.stages),
        mix_counted=chunks is not None,
        checkpoints=tuple(checkpoint_row(lineage, held) for held in status.checkpoints),
        duties=DUTIES,
        time=_time_shares(booked_seconds(facts, recipe, records, until)),
        speeds=tuple(_speeds(lineage)),
        energy=energy_use(recipe, facts, records, len(lineage.accepted), until),
        events=timeline(facts),
        gallery=(layout.gallery / "index.html").is_file(),
    )


def _lived_until(layout: RunLayout, status: Status, now: float) -> float | None:
    """Up to when time is booked: now while the run is held, its release when it is done, else its last sign of life."""
    if status.state == "done":
        release = find_receipt(layout.release)
        return seconds_of(release.made_at) if release else None
    return None if status.state == "stopped" else now


def _newest_export(layout: RunLayout, status: Status) -> Receipt | None:
    found = (find_receipt(layout.export(held.name)) for held in reversed(status.checkpoints))
    return next((receipt for receipt in found if receipt is not None), None)


def _lede(recipe: Recipe, exported: Receipt | None) -> str:
    domains = list(dict.fromkeys(subset.domain for subset in recipe.data.subsets))
    kinds = domains[0] if len(domains) == 1 else f"{', '.join(domains[:-1])} and {domains[-1]}"
    size = f"with {count(exported.facts['parameters'])} parameters " if exported and "parameters" in exported.facts else ""
    stages = ", then ".join(f"{count(stage.tokens)} tokens at a context of {stage.context:,}" for stage in recipe.stages)
    model = recipe.model
    return (
        f"A Llama of {model.layers} layers, {model.hidden:,} wide, {size}trained from scratch on {kinds}: {stages}. "
        f"A checkpoint is kept after each of its {sum(stage.chunks for stage in recipe.stages)} chunks of data."
    )


def _figures(lineage: Lineage, status: Status, stories: tuple[IncidentStory, ...]) -> list[Figure]:
    accepted = lineage.accepted
    planned = sum(part.stage.tokens for part in lineage.stages)
    chunks = sum(part.stage.chunks for part in lineage.stages)
    healed = sum(story.state == "healed" for story in stories)
    return [
        Figure("tokens trained", count(accepted[-1].tokens if accepted else 0), f"of {count(planned)} planned"),
        Figure("loss", loss(accepted[-1].loss) if accepted else "–", f"from {loss(accepted[0].loss)}" if accepted else "no step yet"),
        Figure("checkpoints", str(len(status.checkpoints)), f"of {chunks}"),
        Figure("incidents", str(len(stories)), f"{healed} healed" if stories else "none so far"),
        Figure("attempts", str(status.attempts), "launches of the trainer"),
    ]


def _time_left(lineage: Lineage, status: Status) -> str | None:
    left = lineage.seconds_left
    return duration(left) if left and status.state == "training" else None


def _strip(recipe: Recipe, part: StageLineage) -> Strip:
    stage, first = part.stage, recipe.first_checkpoint_number(part.stage.name)
    cells = tuple(
        Cell(f"chunk {chunk} of {stage.name} → {checkpoint_name(first + chunk + 1)}", _clip(part.reached / stage.steps_per_chunk - chunk))
        for chunk in range(stage.chunks)
    )
    return Strip(stage.name, f"{stage.chunks} × {stage.steps_per_chunk:,} steps, context {stage.context:,}", stage.steps, cells)


def _clip(share: float) -> float:
    return min(1.0, max(0.0, share))


def _time_shares(seconds: Mapping[str, float]) -> tuple[TimeShare, ...]:
    total = sum(seconds.values())
    shares = [TimeShare(cause, CAUSE_WORDS[cause], value, value / total) for cause, value in seconds.items() if value > 0]
    return tuple(sorted(shares, key=lambda share: -share.seconds))


def _speeds(lineage: Lineage) -> list[Figure]:
    figures = []
    for part in lineage.stages:
        speed, seconds = part.tokens_per_second, part.seconds_per_step
        if speed is None or seconds is None:
            continue
        figures.append(Figure(part.stage.name, f"{count(speed)} tokens/s", f"{number(seconds)} s a step (median){_utilization(part)}"))
    return figures


def _utilization(part: StageLineage) -> str:
    """MFU in both conventions, where the trainer knew its devices' peak."""
    whole = [record.mfu for record in part.accepted if record.mfu is not None]
    causal = [record.mfu_causal for record in part.accepted if record.mfu_causal is not None]
    if not whole or not causal:
        return ""
    return f", MFU {percent(median(whole))} (12LDS), {percent(median(causal))} (causal)"
