"""How far a policy may go alone: budgets of a region, a run and a stage's data, progress, and the ladder's third rung. Pure.

Each limit gives a sentence when it is reached, for whoever is asked then. Evidence for stopping early: at BigScience's
104B and at Marin three rollbacks with other data or another optimizer never helped.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from k2.recipe.schema import Recipe
from k2.run.holdings import HeldCheckpoint
from k2.run.ledger import Fact, IncidentDecided, IncidentOpened, StepsSkipped, UpdatesTempered
from k2.watch.fresh import blames_files
from k2.watch.target import DataOperation, rollbacks_in_region, skip_window

_REMEDIES = {"learning_rate": "learning rate", "clip": "clip"}

REMEDY_RUNG = 3  # the rollback of a region that changes the optimizer as well


def reason_to_ask(
    recipe: Recipe, facts: Sequence[Fact], incident: IncidentOpened, target: HeldCheckpoint | None, data: DataOperation
) -> str | None:
    """Why the policy does not answer the incident alone with this target; None where it does."""
    spikes, rung = recipe.spikes, rung_of(recipe, facts, incident)
    step = target.step if target is not None else 0
    reasons = (
        (spikes.mode == "confirm", "the recipe asks about every incident"),
        (incident.kind in spikes.asks_about, f"the recipe asks about every {incident.kind}"),
        (num_rollbacks(facts) >= spikes.max_rollbacks, f"the run has gone back {spikes.max_rollbacks} times, as often as it may"),
        (
            rollbacks_of_the_day(facts, incident) >= spikes.max_rollbacks_in_a_day,
            f"the run has gone back {spikes.max_rollbacks_in_a_day} times within a day, as often as it may",
        ),
        (rung > spikes.max_rollbacks_in_region, f"{rung - 1} rollbacks in this region did not help"),
        (
            rung >= REMEDY_RUNG and spikes.third_needs_approval,
            f"{rung - 1} rollbacks in this region did not help, and the next changes the {_REMEDIES[spikes.third_remedy]} as well",
        ),
        (
            fruitless_cycles(facts, incident) >= spikes.max_fruitless_cycles,
            f"{spikes.max_fruitless_cycles} rollbacks in a row brought no new highest step",
        ),
        (not _is_small(recipe, incident, target, data), f"going back to step {step} would throw {incident.onset_step - step:,} steps away"),
        (data == "skip" and not _within_budget(recipe, facts, incident, step), "the stage's budget of skipped steps is spent"),
    )
    return next((reason for reached, reason in reasons if reached), None)


def rung_of(recipe: Recipe, facts: Sequence[Fact], incident: IncidentOpened) -> int:
    """Which rollback of its region this one would be, from 1."""
    return 1 + len(rollbacks_in_region(recipe, facts, incident))


def remedy(recipe: Recipe, facts: Sequence[Fact], incident: IncidentOpened, target_step: int, who: str, why: str) -> UpdatesTempered | None:
    """What the third rollback of a region, and later ones, do besides: smaller updates for a while."""
    spikes = recipe.spikes
    if rung_of(recipe, facts, incident) < REMEDY_RUNG or blames_files(facts, incident):
        return None
    last = min(incident.onset_step + spikes.scaled(spikes.remedy_steps), recipe.stage(incident.stage).steps)
    by_rate = spikes.third_remedy == "learning_rate"
    return UpdatesTempered(
        stage=incident.stage,
        first_step=target_step + 1,
        last_step=last,
        learning_rate_factor=spikes.learning_rate_remedy if by_rate else 1.0,
        clip_factor=1.0 if by_rate else spikes.clip_remedy,
        who=who,
        why=why,
    )


def num_rollbacks(facts: Sequence[Fact]) -> int:
    return sum(isinstance(f, IncidentDecided) and f.action == "rollback" for f in facts)


def rollbacks_of_the_day(facts: Sequence[Fact], incident: IncidentOpened) -> int:
    """How many rollbacks were decided in the 24 hours before the incident was opened, by the ledger's own times."""
    since = datetime.fromisoformat(incident.at) - timedelta(days=1)
    decided = [f for f in facts if isinstance(f, IncidentDecided) and f.action == "rollback" and f.incident != incident.incident]
    return sum(since < datetime.fromisoformat(f.at) <= datetime.fromisoformat(incident.at) for f in decided)


def fruitless_cycles(facts: Sequence[Fact], incident: IncidentOpened) -> int:
    """How many rollbacks of the stage came since the highest onset was reached: a spike further on means that something was gained."""
    rolled_back = {f.incident for f in facts if isinstance(f, IncidentDecided) and f.action == "rollback"}
    onsets = [f.onset_step for f in facts if isinstance(f, IncidentOpened) and f.stage == incident.stage and f.incident in rolled_back]
    onsets.append(incident.onset_step)
    return len(onsets) - 1 - onsets.index(max(onsets))


def _within_budget(recipe: Recipe, facts: Sequence[Fact], incident: IncidentOpened, target_step: int) -> bool:
    """Whether the window fits into what the stage may skip. The first one always does."""
    skipped: set[int] = set()
    for fact in facts:
        if isinstance(fact, StepsSkipped) and fact.stage == incident.stage:
            skipped.update(range(fact.first_step, fact.last_step + 1))
    if not skipped:
        return True
    first, last = skip_window(recipe, facts, incident, target_step)
    return len(skipped | set(range(first, last + 1))) <= recipe.spikes.skip_budget * recipe.stage(incident.stage).steps


def _is_small(recipe: Recipe, incident: IncidentOpened, target: HeldCheckpoint | None, data: DataOperation) -> bool:
    """Whether it skips little before the onset, and does not return to the start of a stage from far into it.

    Where the rescue checkpoints are there, the margin of the rung before the third and the way to the next older one lie within.
    """
    limit = recipe.spikes.max_skip_steps + recipe.spikes.margin_steps + recipe.checkpoints.rescue_every_steps
    if data == "skip":
        return incident.onset_step - (target.step if target is not None else 0) <= limit
    if target is not None:
        return True
    first = recipe.stage(incident.stage).steps_per_chunk if data == "defer" else limit
    return incident.onset_step <= first
