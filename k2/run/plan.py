"""The one decision: what a run does next. Pure: recipe, facts and holdings in, an action out.

The flow is a loop over `next_action`; so is the plain loop that needs no orchestrator. Whatever crashed, asking
again gives the right answer, because nothing but facts and receipts enters.
"""

from collections.abc import Container
from dataclasses import dataclass

from k2.recipe.schema import Recipe, Stage
from k2.run.holdings import DUTIES, Duty, HeldCheckpoint, Holdings
from k2.run.layout import checkpoint_name
from k2.run.ledger import AttemptEnded, AttemptStarted, Fact, IncidentClosed, IncidentDecided, IncidentOpened, last_attempt


@dataclass(frozen=True)
class Prepare:
    """Gather the text, train the tokenizer, build the chunks of all stages."""


@dataclass(frozen=True)
class Train:
    """Launch one segment: from `checkpoint` (none: from scratch) onward to `last_step` (none: the end of the stage).

    `probe`: it is the replay probe of that incident. Its records lie apart, and it saves nothing.
    """

    stage: str
    attempt: int
    checkpoint: str | None
    first_step: int
    last_step: int | None = None
    probe: int | None = None


@dataclass(frozen=True)
class Heal:
    """A decided incident: keep the evidence, set the abandoned checkpoints aside."""

    incident: IncidentOpened
    decision: IncidentDecided


@dataclass(frozen=True)
class Ask:
    """An open incident that waits for a decision."""

    incident: IncidentOpened


@dataclass(frozen=True)
class Settle:
    """One duty of one checkpoint."""

    checkpoint: str
    duty: Duty


@dataclass(frozen=True)
class Release:
    """Everything is trained and settled: the last page and the index of what was published."""


@dataclass(frozen=True)
class Done:
    """Nothing is left to do; `aborted` when an incident was answered so."""

    aborted: bool = False


Action = Prepare | Train | Heal | Ask | Settle | Release | Done


def next_action(recipe: Recipe, facts: list[Fact], holdings: Holdings) -> Action:
    """What the run does next."""
    incident = open_incident(facts)
    if incident is not None:
        decision = decision_of(facts, incident.incident)
        return Ask(incident) if decision is None else Heal(incident, decision)
    if any(isinstance(fact, IncidentDecided) and fact.action == "abort" for fact in facts):
        return Done(aborted=True)
    if not holdings.prepared:
        return Prepare()
    for position, stage in enumerate(recipe.stages):
        if not _is_trained(recipe, holdings, position):
            return next_segment(recipe, facts, holdings, stage)
    unsettled = unsettled_duties(recipe, holdings)
    if unsettled:
        return unsettled[0]
    return Done() if holdings.released else Release()


def _is_trained(recipe: Recipe, holdings: Holdings, position: int) -> bool:
    """Whether the stage is behind us: its last checkpoint is held, or a later stage has gone on from it."""
    later = recipe.stages[position + 1 :]
    return last_checkpoint(recipe, recipe.stages[position]) in holdings.names() or any(holdings.of_stage(stage.name) for stage in later)


def next_segment(recipe: Recipe, facts: list[Fact], holdings: Holdings, stage: Stage) -> Train:
    """The segment that goes on from the newest checkpoint of the stage, or from the end of the stage before."""
    attempt = last_attempt(facts) + 1
    held = holdings.of_stage(stage.name)
    if held:
        return Train(stage.name, attempt, held[-1].name, held[-1].step + 1)
    before = recipe.first_checkpoint_number(stage.name)
    return Train(stage.name, attempt, checkpoint_name(before) if before else None, 1)


def last_checkpoint(recipe: Recipe, stage: Stage) -> str:
    """The name of the checkpoint that ends the stage."""
    return checkpoint_name(recipe.first_checkpoint_number(stage.name) + stage.chunks)


def open_incident(facts: list[Fact]) -> IncidentOpened | None:
    """The incident that is opened and not closed, if any. There is at most one."""
    closed = {fact.incident for fact in facts if isinstance(fact, IncidentClosed)}
    still_open = [fact for fact in facts if isinstance(fact, IncidentOpened) and fact.incident not in closed]
    return still_open[-1] if still_open else None


def decision_of(facts: list[Fact], incident: int) -> IncidentDecided | None:
    """What was decided about the incident. The first answer counts: a decision is single-use."""
    decided = [fact for fact in facts if isinstance(fact, IncidentDecided) and fact.incident == incident]
    return decided[0] if decided else None


def duties_of(recipe: Recipe, checkpoint: HeldCheckpoint) -> tuple[Duty, ...]:
    """What a checkpoint is owed by the recipe. Rescue checkpoints are owed nothing."""
    if checkpoint.kind != "chunk":
        return ()
    number = int(checkpoint.name.removeprefix("ckpt_"))
    scored = bool(suites_due(recipe, checkpoint.name))
    published = is_published(recipe, checkpoint.stage, number)
    owed: dict[Duty, bool] = {"verified": True, "exported": scored or published, "evaluated": scored, "published": published, "shown": True}
    return tuple(duty for duty in DUTIES if owed[duty])


def is_published(recipe: Recipe, stage: str, number: int) -> bool:
    """Whether the checkpoint of that number, which ends a chunk of the stage, is owed its publication."""
    last = number == sum(each.chunks for each in recipe.stages)
    return last or number % recipe.publishing.every_of(stage) == 0


def suites_due(recipe: Recipe, checkpoint: str) -> tuple[str, ...]:
    """The suites that a chunk's checkpoint is scored with, by its name."""
    number = int(checkpoint.removeprefix("ckpt_"))
    return recipe.evaluation.suites_of(number, last=number == sum(stage.chunks for stage in recipe.stages))


def unsettled_duties(recipe: Recipe, holdings: Holdings, checkpoints: Container[str] | None = None) -> list[Settle]:
    """What is owed and not settled (of the named checkpoints, or of all), oldest checkpoint first."""
    return [
        Settle(checkpoint.name, duty)
        for checkpoint in holdings.checkpoints
        if checkpoints is None or checkpoint.name in checkpoints
        for duty in duties_of(recipe, checkpoint)
        if duty not in checkpoint.settled
    ]


def owed_duties(recipe: Recipe, facts: list[Fact], holdings: Holdings) -> list[Settle]:
    """Every duty that may be settled now, oldest checkpoint first.

    A checkpoint's duties begin when training has gone far enough past it for a malignant spike that began before it to
    have been seen, or when its stage has ended and its last attempt has been judged; and none in a stage whose
    incident is open: nothing that is about to be abandoned is published.
    """
    incident = open_incident(facts)
    open_stage = incident.stage if incident is not None else None
    ended = {stage.name for stage in recipe.stages if _has_ended(recipe, facts, holdings, stage)}
    distance = 2 * recipe.spikes.persistence_steps
    ripe = {
        checkpoint.name
        for checkpoint in holdings.checkpoints
        if checkpoint.stage != open_stage
        and (checkpoint.stage in ended or holdings.reached[checkpoint.stage] >= checkpoint.step + distance)
    }
    return unsettled_duties(recipe, holdings, ripe)


def _has_ended(recipe: Recipe, facts: list[Fact], holdings: Holdings, stage: Stage) -> bool:
    """Whether the stage is trained, and the end of its last attempt (which is judged with it) is in the ledger."""
    started = {fact.attempt for fact in facts if isinstance(fact, AttemptStarted) and fact.stage == stage.name}
    ended = {fact.attempt for fact in facts if isinstance(fact, AttemptEnded)}
    return last_checkpoint(recipe, stage) in holdings.names() and started <= ended
