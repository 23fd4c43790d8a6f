"""A run on paper: the same policy code, against failures and spikes that are drawn from a seed, in virtual time.

What enters is a recipe, what things cost and how often they happen; what leaves are seconds by cause, as in
`k2.run.goodput`. Nothing is trained: between two events the steps are counted. A spike is bound to its data: it
comes when its onset is trained, is judged after the recipe's persistence, and is answered by `watch.policy`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from k2.recipe.schema import Recipe, Stage
from k2.run.goodput import CAUSES, Cause
from k2.run.holdings import HeldCheckpoint, Holdings
from k2.run.layout import checkpoint_name, rescue_name
from k2.run.ledger import AttemptStarted, ChunkDeferred, Fact, IncidentClosed, IncidentDecided, IncidentOpened, StepsSkipped
from k2.watch.event import Event
from k2.watch.policy import answer, decide
from k2.watch.target import chunk_position

NEVER = float("inf")


@dataclass(frozen=True)
class Costs:
    """Seconds of what happens in a run. `human_seconds` passes until somebody answers; `loading_seconds` is part of no start-up."""

    step_seconds: float
    saving_seconds: float
    startup_seconds: float
    loading_seconds: float = 0.0
    ending_seconds: float = 0.0  # from the last step of a segment until its checkpoint is there
    leaving_seconds: float = 0.0  # from then until its ranks are gone
    first_startup_seconds: float | None = None  # none: as every other
    hang_seconds: float = 600.0
    human_seconds: float = 8 * 3600.0
    reaction_steps: int = 0  # trained after a verdict until the trainer has stopped


@dataclass(frozen=True)
class Spike:
    """A spike at a step of the stage. It comes back after as many rollbacks as `comebacks` says, then it is healed."""

    stage: str
    onset_step: int
    age: int  # trained steps from its onset to its verdict, both included
    comebacks: int = 0


@dataclass(frozen=True)
class Hazards:
    """What strikes: spikes at fixed places, crashes at random moments, of which a share are hangs."""

    spikes: tuple[Spike, ...] = ()
    mtbf_seconds: float = NEVER
    hang_share: float = 0.1


@dataclass
class Simulated:
    """What became of a run."""

    seconds: dict[Cause, float] = field(default_factory=lambda: dict.fromkeys(CAUSES, 0.0))
    failures: int = 0
    rollbacks: int = 0
    asked: int = 0
    skipped_steps: int = 0

    @property
    def wall(self) -> float:
        return sum(self.seconds.values())

    @property
    def goodput(self) -> float:
        return self.seconds["productive"] / self.wall


def simulate(recipe: Recipe, costs: Costs, hazards: Hazards, rng: np.random.Generator) -> Simulated:
    """Live through the whole recipe once."""
    world = _World(recipe, costs, hazards, rng)
    for stage in recipe.stages:
        _StageRun(world, stage).to_the_end()
    return world.result


class _World:
    """What the stages share: the clock of failures, the ledger, and the books."""

    def __init__(self, recipe: Recipe, costs: Costs, hazards: Hazards, rng: np.random.Generator) -> None:
        self.recipe, self.costs, self.hazards, self.rng = _without_days(recipe), costs, hazards, rng
        self.result = Simulated()
        self.facts: list[Fact] = []
        self.attempt = 0
        self._next_failure = self._draw()

    @property
    def until_failure(self) -> float:
        return self._next_failure - self.result.wall

    def spend(self, cause: Cause, seconds: float) -> None:
        self.result.seconds[cause] += seconds

    def end_segment(self) -> None:
        """The checkpoint that ends it, and the ranks' leaving."""
        self.spend("ckpt_stall", self.costs.ending_seconds)
        self.spend("other", self.costs.leaving_seconds)

    def wait(self, seconds: float) -> None:
        """Somebody is waited for: nothing runs that could fail."""
        self.spend("human_wait", seconds)
        self._next_failure += seconds

    def fail(self) -> None:
        """A crash has struck, or a hang until it was noticed; when the next one comes is drawn."""
        self.result.failures += 1
        if self.rng.random() < self.hazards.hang_share:
            self.spend("hang", self.costs.hang_seconds)
        self._next_failure = self._draw()

    def _draw(self) -> float:
        if self.hazards.mtbf_seconds == NEVER:
            return NEVER
        return self.result.wall + float(self.rng.exponential(self.hazards.mtbf_seconds))


def _without_days(recipe: Recipe) -> Recipe:
    """The recipe without its limit of a day: the facts of a hundred days on paper are written in the same second."""
    spikes = recipe.spikes.model_copy(update={"max_rollbacks_in_a_day": recipe.spikes.max_rollbacks})
    return recipe.model_copy(update={"spikes": spikes})


class _StageRun:
    """One stage being trained. `step` is the last step behind us, `saved` the last one that a checkpoint holds."""

    def __init__(self, world: _World, stage: Stage) -> None:
        self._world, self._stage = world, stage
        self._step = self._saved = 0
        self._grid = _Grid(world.recipe.checkpoints.rescue_every_steps, stage.steps_per_chunk)
        self._spikes = sorted((s for s in world.hazards.spikes if s.stage == stage.name), key=lambda spike: spike.onset_step)

    def to_the_end(self) -> None:
        self._launch()
        while self._step < self._stage.steps or self._spikes:
            verdict = self._verdict_step()
            if self._crashes_before(verdict):
                self._crash()
            else:
                self._train_to(verdict)
                if self._spikes and self._step == self._verdict_step():
                    self._spiked(self._spikes.pop(0))
        self._world.end_segment()

    def _verdict_step(self) -> int:
        """Where the next verdict falls; the end of the stage where no spike is left."""
        verdicts = [spike.onset_step + spike.age - 1 for spike in self._spikes[:1]]
        return min([self._stage.steps, *verdicts])

    def _seconds_to(self, step: int) -> float:
        """What training and saving take from here to the step."""
        costs = self._world.costs
        return self._grid.trained(self._step, step) * costs.step_seconds + self._grid.saves(self._step, step) * costs.saving_seconds

    def _crashes_before(self, step: int) -> bool:
        return self._world.until_failure < self._seconds_to(step)

    def _train_to(self, step: int) -> None:
        world = self._world
        world.spend("productive", self._grid.trained(self._step, step) * world.costs.step_seconds)
        world.spend("ckpt_stall", self._grid.saves(self._step, step) * world.costs.saving_seconds)
        self._saved = max(self._saved, self._grid.last_save(step))
        self._step = step

    def _launch(self) -> None:
        """A segment from the last checkpoint. A failure meanwhile begins it anew."""
        world, costs = self._world, self._world.costs
        world.attempt += 1
        first = costs.first_startup_seconds if world.attempt == 1 and costs.first_startup_seconds is not None else costs.startup_seconds
        loading = costs.loading_seconds if world.attempt > 1 else 0.0
        while world.until_failure < first + loading:
            world.spend("startup", world.until_failure)
            world.fail()
        world.spend("startup", first)
        world.spend("ckpt_load", loading)
        started = AttemptStarted(attempt=world.attempt, stage=self._stage.name, checkpoint=None, first_step=self._saved + 1)
        world.facts.append(started)

    def _crash(self) -> None:
        """The failure strikes: everything after the last checkpoint is lost, the rest of an interrupted step or save too."""
        world, low, high = self._world, self._step, self._stage.steps
        while low < high:  # the last step whose end the failure leaves alone
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._seconds_to(middle) <= world.until_failure else (low, middle - 1)
        rest = world.until_failure
        rest -= self._seconds_to(low)
        self._train_to(low)
        world.spend("rework_fault", rest)
        self._lose("rework_fault", self._saved)
        world.fail()
        self._step = self._saved
        self._launch()

    def _lose(self, cause: Cause, target: int) -> None:
        """Book what was trained after the target as lost."""
        seconds = self._grid.trained(target, self._step) * self._world.costs.step_seconds
        self._world.spend("productive", -seconds)
        self._world.spend(cause, seconds)

    def _spiked(self, spike: Spike) -> None:
        """The verdict has fallen: the policy answers, or a human does; then the run goes on from the target."""
        world, costs = self._world, self._world.costs
        verdict = self._step
        self._train_to(min(self._step + costs.reaction_steps, self._stage.steps))
        world.spend("ckpt_stall", costs.saving_seconds)  # the verdict's own checkpoint
        world.end_segment()
        event = Event("malignant.long", self._stage.name, world.attempt, spike.onset_step, verdict, 1.0, 12.0, 3.0, 0.02, spike.age)
        holdings = self._holdings()
        facts = answer(world.recipe, world.facts, holdings, event)
        opened = next(f for f in facts if isinstance(f, IncidentOpened))
        world.facts += facts
        if not any(isinstance(f, IncidentDecided) for f in facts):
            world.result.asked += 1
            world.wait(costs.human_seconds)
            facts = decide(world.recipe, world.facts, holdings, opened.incident, "rollback")
            world.facts += facts
        self._go_back(spike, holdings, facts)

    def _go_back(self, spike: Spike, holdings: Holdings, facts: Sequence[Fact]) -> None:
        """What the decision says is done: steps are lost, data is taken out, and the run goes on from the target."""
        world = self._world
        decision = next(f for f in facts if isinstance(f, IncidentDecided))
        if decision.action != "rollback":
            return
        target = next((c.step for c in holdings.checkpoints if c.name == decision.checkpoint), 0)
        self._lose("rework_spike", target)
        world.result.rollbacks += 1
        world.facts.append(IncidentClosed(incident=decision.incident))
        self._take_out(spike, facts)
        self._step = self._saved = target
        if spike.comebacks:
            again = min(max(self._grid.first_trained(target + 1), spike.onset_step), self._stage.steps)
            self._spikes.insert(0, Spike(spike.stage, again, spike.age, spike.comebacks - 1))
        self._launch()

    def _take_out(self, spike: Spike, facts: Sequence[Fact]) -> None:
        """The data that the operation took away: what it would have done is not done."""
        windows = [(fact.first_step, fact.last_step) for fact in facts if isinstance(fact, StepsSkipped)]
        for first, last in windows:
            self._world.result.skipped_steps += self._grid.trained(first - 1, last)
            self._grid.skip(first, last)
        if any(isinstance(fact, ChunkDeferred) for fact in facts):
            position = chunk_position(self._stage, spike.onset_step)
            windows.append((position * self._stage.steps_per_chunk + 1, (position + 1) * self._stage.steps_per_chunk))
        self._spikes = [s for s in self._spikes if not any(first <= s.onset_step <= last for first, last in windows)]

    def _holdings(self) -> Holdings:
        """The checkpoints as a run would hold them now: every chunk's, and the rescue ones of the last two chunks."""
        recipe, stage, held = self._world.recipe, self._stage, []
        before = recipe.first_checkpoint_number(stage.name)
        for position in range(1, self._step // stage.steps_per_chunk + 1):
            held.append(HeldCheckpoint(checkpoint_name(before + position), "chunk", stage.name, position * stage.steps_per_chunk, 0))
        oldest = self._step - 2 * stage.steps_per_chunk
        for step in self._grid.rescues(max(0, oldest), self._step):
            held.append(HeldCheckpoint(rescue_name(stage.name, step), "rescue", stage.name, step, 0))
        reached = {other.name: 0 for other in recipe.stages} | {stage.name: self._step}
        return Holdings(prepared=True, checkpoints=tuple(sorted(held, key=lambda c: c.step)), reached=reached, released=False)


class _Grid:
    """Which steps of a stage are trained, and after which of them a checkpoint is saved (`run.saving.due_checkpoint`)."""

    def __init__(self, rescue_every_steps: int, steps_per_chunk: int) -> None:
        self._rescue, self._chunk = rescue_every_steps, steps_per_chunk
        self._skipped: list[tuple[int, int]] = []  # apart from each other, in order

    def skip(self, first: int, last: int) -> None:
        apart = [w for w in self._skipped if w[1] < first or w[0] > last]
        joined = [w for w in self._skipped if w not in apart] + [(first, last)]
        self._skipped = sorted([*apart, (min(w[0] for w in joined), max(w[1] for w in joined))])

    def trained(self, after: int, to: int) -> int:
        """How many of the steps `after` + 1 to `to` are trained."""
        return to - after - sum(max(0, min(last, to) - max(first, after + 1) + 1) for first, last in self._skipped)

    def first_trained(self, step: int) -> int:
        """The step, or the first one after it that is trained."""
        return next((last + 1 for first, last in self._skipped if first <= step <= last), step)

    def saves(self, after: int, to: int) -> int:
        """How many checkpoints are saved after the steps `after` + 1 to `to`: each chunk's, and the trained rescue steps'."""
        unsaved = sum(
            self._all_saves(max(first - 1, after), min(last, to), chunks=False)
            for first, last in self._skipped
            if last > after and first <= to
        )
        return self._all_saves(after, to) - unsaved

    def last_save(self, step: int) -> int:
        """The newest step up to this one that a checkpoint holds; 0 is the start."""
        rescue = step // self._rescue * self._rescue
        while any(first <= rescue <= last for first, last in self._skipped) and rescue % self._chunk:
            rescue -= self._rescue
        return max(rescue, step // self._chunk * self._chunk)

    def rescues(self, after: int, to: int) -> list[int]:
        """The steps of rescue checkpoints."""
        steps = range((after // self._rescue + 1) * self._rescue, to + 1, self._rescue)
        return [step for step in steps if step % self._chunk and self.first_trained(step) == step]

    def _all_saves(self, after: int, to: int, *, chunks: bool = True) -> int:
        both = math.lcm(self._rescue, self._chunk)
        rescues = to // self._rescue - after // self._rescue - (to // both - after // both)
        return rescues + (to // self._chunk - after // self._chunk if chunks else 0)
