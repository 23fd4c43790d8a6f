"""What was recorded, laid out on one axis: the steps of the run, counted on through the stages.

Recipe, ledger and metrics files enter; the accepted lineage of every stage and the branches that incidents
abandoned leave. Every curve of the page is drawn from this reading.
"""

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from statistics import median

from k2.recipe.schema import Recipe, Stage
from k2.run.layout import RunLayout
from k2.run.ledger import AttemptStarted, Fact, IncidentDecided, IncidentOpened, StepsSkipped
from k2.run.records import Branches, StepRecord, accepted_of, all_branches, attempts_of


@dataclass(frozen=True)
class StageLineage:
    """One stage's records. `before` counts the run's steps up to it."""

    stage: Stage
    before: int
    tokens_before: int
    accepted: list[StepRecord]
    attempts: Branches

    @property
    def reached(self) -> int:
        return self.accepted[-1].step if self.accepted else 0

    def run_step(self, step: float) -> float:
        return self.before + step

    def last_until(self, step: int) -> StepRecord | None:
        """The accepted record of that step; where it was skipped, of the last one before it."""
        position = bisect_right(self.accepted, step, key=lambda record: record.step)
        return self.accepted[position - 1] if position else None

    @cached_property
    def seconds_per_step(self) -> float | None:
        """The median, which no pause or restart moves."""
        return median(record.seconds for record in self.accepted) if self.accepted else None

    @property
    def tokens_per_second(self) -> float | None:
        return self.stage.tokens_per_step / self.seconds_per_step if self.seconds_per_step else None


@dataclass(frozen=True)
class Lineage:
    """All stages, in order."""

    stages: tuple[StageLineage, ...]

    @property
    def total_steps(self) -> int:
        return sum(part.stage.steps for part in self.stages)

    @property
    def reached(self) -> int:
        """The last accepted step of the run, counted on through the stages."""
        return max((int(part.run_step(part.reached)) for part in self.stages if part.accepted), default=0)

    @cached_property
    def accepted(self) -> list[StepRecord]:
        return [record for part in self.stages for record in part.accepted]

    @property
    def branches(self) -> dict[str, Branches]:
        """Everything that was read, by stage."""
        return {part.stage.name: part.attempts for part in self.stages}

    def of(self, stage: str) -> StageLineage:
        return next(part for part in self.stages if part.stage.name == stage)

    def tokens_at(self, run_step: float) -> float:
        """Tokens that the plan has consumed by that step of the run."""
        for part in reversed(self.stages):
            if run_step >= part.before:
                return part.tokens_before + (run_step - part.before) * part.stage.tokens_per_step
        return 0.0

    def step_at(self, tokens: float) -> float:
        """The step of the run by which the plan has consumed so many tokens."""
        part = next(part for part in reversed(self.stages) if tokens >= part.tokens_before)
        return part.before + (tokens - part.tokens_before) / part.stage.tokens_per_step

    @property
    def seconds_left(self) -> float | None:
        """Of training, at the pace of each stage; a stage not begun is taken at the newest pace by tokens."""
        paces = [part.tokens_per_second for part in self.stages if part.tokens_per_second]
        if not paces:
            return None
        return sum(
            (part.stage.steps - part.reached) * part.stage.tokens_per_step / (part.tokens_per_second or paces[-1]) for part in self.stages
        )


def read_lineage(recipe: Recipe, layout: RunLayout, facts: list[Fact]) -> Lineage:
    """Read every stage's records, once."""
    records = all_branches(layout, facts, recipe)
    parts = []
    for stage in recipe.stages:
        earlier = recipe.stages_before(stage.name)
        before, tokens = sum(one.steps for one in earlier), sum(one.tokens for one in earlier)
        parts.append(StageLineage(stage, before, tokens, accepted_of(records[stage.name], facts, stage.name), records[stage.name]))
    return Lineage(tuple(parts))


def abandoned_branch(part: StageLineage, facts: list[Fact], incident: IncidentOpened) -> list[StepRecord]:
    """The steps of the spiked attempt that were trained and then given up; none while it is undecided or went on."""
    rolled_back = any(isinstance(f, IncidentDecided) and f.incident == incident.incident and f.action == "rollback" for f in facts)
    if not rolled_back:
        return []
    later = [attempt for attempt in attempts_of(facts, part.stage.name) if attempt.attempt > incident.attempt]
    first = later[0].first_step if later else incident.onset_step
    return [record for record in part.attempts.get(incident.attempt, []) if record.step >= first]


def operations_of(facts: list[Fact], incident: IncidentOpened) -> list[Fact]:
    """The ledger from the opening of the incident up to the next one's."""
    position = facts.index(incident)
    rest = facts[position + 1 :]
    following = [i for i, fact in enumerate(rest) if isinstance(fact, IncidentOpened)]
    return rest[: following[0]] if following else rest


def skipped_windows(facts: list[Fact], stage: str) -> list[StepsSkipped]:
    return [fact for fact in facts if isinstance(fact, StepsSkipped) and fact.stage == stage]


def relaunch_after(facts: list[Fact], incident: IncidentOpened) -> AttemptStarted | None:
    """The attempt that went on after the incident."""
    return next((fact for fact in operations_of(facts, incident) if isinstance(fact, AttemptStarted)), None)
