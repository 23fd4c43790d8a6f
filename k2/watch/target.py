"""Where a rollback goes and what becomes of the data: pure, from the incident, the ledger and the held checkpoints.

K2 §3.1 went back to a checkpoint before the spike and deferred its chunk; PaLM went back about 100 steps and skipped
200 to 500 batches. Every return to a region goes further back than the one before.
"""

from collections.abc import Sequence
from typing import Literal

from k2.recipe.schema import Recipe, Stage
from k2.run.holdings import HeldCheckpoint, Holdings
from k2.run.ledger import AttemptStarted, Fact, IncidentDecided, IncidentOpened
from k2.watch.fresh import blames_files, skip_before

DataOperation = Literal["skip", "defer", "none"]


def rollback_target(
    recipe: Recipe, facts: Sequence[Fact], holdings: Holdings, incident: IncidentOpened, data: DataOperation
) -> HeldCheckpoint | None:
    """The newest checkpoint that is safely before the onset and was not tried for this region yet; None means the stage's start.

    Checkpoints that somebody's stop made are passed over, so that an interrupted run goes back where an unbroken one does.
    """
    latest = _latest_step(recipe, facts, incident, data)
    kinds = ("chunk",) if data == "defer" else ("chunk", "rescue")
    tried = {decision.checkpoint for decision in rollbacks_in_region(recipe, facts, incident)}
    fit = [c for c in holdings.of_stage(incident.stage) if c.kind in kinds and c.step <= latest and c.name not in tried]
    return max(fit, key=lambda c: c.step, default=None)


def abandoned(holdings: Holdings, incident: IncidentOpened, decision: IncidentDecided) -> tuple[str, ...]:
    """The stage's checkpoints past the target, of any kind: what a rollback sets aside."""
    if decision.action != "rollback":
        return ()
    held = {c.name: c for c in holdings.of_stage(incident.stage)}
    if decision.checkpoint is not None and decision.checkpoint not in held:
        raise ValueError(f"incident {incident.incident:03d} goes back to {decision.checkpoint}, which is not held; put it back and resume")
    target_step = held[decision.checkpoint].step if decision.checkpoint is not None else 0
    return tuple(c.name for c in held.values() if c.step > target_step)


def skip_window(recipe: Recipe, facts: Sequence[Fact], incident: IncidentOpened, target_step: int) -> tuple[int, int]:
    """First and last step not to train: from the target to the onset and as far past it as the spike was seen, within limits.

    A verdict just behind a skipped window fell too early to show how far the bad data goes: the second window is then longer than
    the first by the factor that the margin grows by.
    """
    seen = incident.verdict_step - incident.onset_step
    before = skip_before(facts, incident)
    if before is not None:
        seen = max(seen, recipe.spikes.margin_growth * (before.last_step - before.first_step + 1))
    past_onset = min(seen, recipe.spikes.max_skip_steps)
    return target_step + 1, min(incident.onset_step + past_onset, recipe.stage(incident.stage).steps)


def chunk_position(stage: Stage, step: int) -> int:
    """The position, from 0, of the chunk that the step trains on."""
    return (step - 1) // stage.steps_per_chunk


def suitable_operation(recipe: Recipe, facts: Sequence[Fact], incident: IncidentOpened, wished: Literal["skip", "defer"]) -> DataOperation:
    """What the files are at fault for is not the data's; the last chunk of the order cannot move to its end."""
    stage = recipe.stage(incident.stage)
    if blames_files(facts, incident):
        return "none"
    if chunk_position(stage, incident.onset_step) == stage.chunks - 1:
        return "skip"
    return wished


def rollbacks_in_region(recipe: Recipe, facts: Sequence[Fact], incident: IncidentOpened) -> list[IncidentDecided]:
    """The rollbacks that answered spikes in this region of the stage before, oldest first."""
    region = min(recipe.spikes.scaled(recipe.spikes.region_steps), recipe.stage(incident.stage).steps // 4)
    near = {
        f.incident
        for f in facts
        if isinstance(f, IncidentOpened)
        and f.incident != incident.incident
        and f.stage == incident.stage
        and not blames_files(facts, f)
        and abs(f.onset_step - incident.onset_step) <= region
    }
    return [f for f in facts if isinstance(f, IncidentDecided) and f.action == "rollback" and f.incident in near]


def _latest_step(recipe: Recipe, facts: Sequence[Fact], incident: IncidentOpened, data: DataOperation) -> int:
    if blames_files(facts, incident):  # older than the files that it started from: they are never tried twice
        return _first_step(facts, incident.attempt) - 2
    repeats = len(rollbacks_in_region(recipe, facts, incident))
    margin: int = recipe.spikes.margin_steps * recipe.spikes.margin_growth**repeats
    with_margin = incident.onset_step - margin
    if data != "defer":
        return with_margin
    stage = recipe.stage(incident.stage)
    chunk_start = chunk_position(stage, incident.onset_step) * stage.steps_per_chunk
    return min(chunk_start, with_margin) if repeats else chunk_start


def _first_step(facts: Sequence[Fact], attempt: int) -> int:
    return next((f.first_step for f in facts if isinstance(f, AttemptStarted) and f.attempt == attempt), 1)
