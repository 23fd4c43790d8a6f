"""What a verdict leads to: pure, from records, ledger and held checkpoints to facts.

`judge` finds the verdict that nobody answered yet, `answer` and `decide` (the policy's and a human's answer) say
where to go back to and what becomes of the data. All of it is the same for a run that was killed in the middle.
K2 §3.1 went back to a checkpoint before the spike and deferred its chunk; PaLM skipped 200 to 500 batches.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from k2.recipe.schema import Recipe, Stage
from k2.run.holdings import HeldCheckpoint, Holdings
from k2.run.layout import checkpoint_name
from k2.run.ledger import AttemptStarted, ChunkDeferred, Fact, IncidentDecided, IncidentOpened, StepsSkipped
from k2.run.plan import decision_of
from k2.run.records import StepRecord, attempts_of
from k2.watch.event import Event
from k2.watch.spikes import observe
from k2.watch.stage import NOTHING, stage_detector

Choice = Literal["rollback", "continue", "abort"]
DataOperation = Literal["skip", "defer", "none"]

_AUTOMATIC_REPEATS = 2  # where two rollbacks did not help, a third seldom does: BigScience's 104B, Marin's 32B
_REGION_PERSISTENCES = 50  # incidents within 5,000 steps at a persistence of 100 are of one region


class DecisionRefused(ValueError):
    """An answer to an incident that cannot be given. The text says why and what can."""


def judge(
    recipe: Recipe, facts: list[Fact], stage: str, records: Iterable[StepRecord], replayed: Mapping[int, float] = NOTHING
) -> Event | None:
    """The first malignant verdict of the stage's last attempt that no incident answers.

    `records` is the accepted lineage, `replayed` what was recorded before of the steps that the last attempt trains again
    (`k2.run.records.replayed_losses`).
    """
    attempts = attempts_of(facts, stage)
    if not attempts:
        return None
    return first_unanswered(facts, attempts[-1].attempt, observe(stage_detector(recipe, stage, replayed), records))


def first_unanswered(facts: Sequence[Fact], attempt: int, events: Iterable[Event]) -> Event | None:
    """The first malignant event of the attempt past every verdict of it that has an incident. Earlier attempts are history."""
    answered = max((f.verdict_step for f in facts if isinstance(f, IncidentOpened) and f.attempt == attempt), default=0)
    return next((e for e in events if e.malignant and e.attempt == attempt and e.verdict_step > answered), None)


def answer(recipe: Recipe, facts: list[Fact], holdings: Holdings, event: Event) -> tuple[Fact, ...]:
    """The facts that answer the verdict by the recipe's mode. An incident without a decision waits for a human.

    Nobody is asked in `auto` only while the answer is small: within the run's budget of rollbacks, at the first and second
    spike of a region, and where it throws little away (`_is_small`).
    """
    opened = _open_incident(facts, event)
    if recipe.spikes.mode == "observe":
        return opened, IncidentDecided(incident=opened.incident, action="continue")
    spent = _num_rollbacks(facts) >= recipe.spikes.max_rollbacks or _num_repeats(recipe, facts, opened) >= _AUTOMATIC_REPEATS
    if recipe.spikes.mode == "confirm" or spent:
        return (opened,)
    data = _suitable_operation(recipe, opened, recipe.spikes.bypass)
    target = rollback_target(recipe, facts, holdings, opened, data)
    if not _is_small(recipe, opened, target, data):
        return (opened,)
    return opened, *_go_back(recipe, facts, opened, target, data, "policy")


def decide(  # noqa: PLR0913, PLR0917 - the command line's fields, one by one
    recipe: Recipe,
    facts: list[Fact],
    holdings: Holdings,
    incident: int,
    action: Choice,
    to: str | None = None,
    data: Literal["skip", "defer"] | None = None,
    who: str = "user",
) -> tuple[Fact, ...]:
    """The facts of a human's answer. `DecisionRefused` for a second answer, an unknown incident or an unfit checkpoint."""
    opened = _undecided(facts, incident)
    if action != "rollback":
        if to is not None or data is not None:
            raise DecisionRefused(f"{action!r} goes back nowhere: leave out --to and --data, or answer `rollback`")
        return (IncidentDecided(incident=incident, action=action, who=who),)
    operation = _suitable_operation(recipe, opened, data or recipe.spikes.bypass)
    if data is not None and operation != data:
        raise DecisionRefused(
            f"--data {data} has no effect on this incident ({opened.kind} at step {opened.onset_step}); use --data skip, or leave it out"
        )
    if to is None:
        target = rollback_target(recipe, facts, holdings, opened, operation)
    else:
        target = _named_target(recipe, holdings, opened, to, operation)
    return _go_back(recipe, facts, opened, target, operation, who)


def rollback_target(
    recipe: Recipe, facts: list[Fact], holdings: Holdings, incident: IncidentOpened, data: DataOperation
) -> HeldCheckpoint | None:
    """The newest checkpoint that is safely before the onset; None means the stage's start.

    Checkpoints that somebody's stop made are passed over, so that an interrupted run goes back where an unbroken one does.
    """
    latest = _latest_target_step(recipe, facts, incident, data)
    kinds = ("chunk",) if data == "defer" else ("chunk", "rescue")
    fit = [c for c in holdings.of_stage(incident.stage) if c.kind in kinds and c.step <= latest]
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


def skip_window(recipe: Recipe, incident: IncidentOpened, target_step: int) -> tuple[int, int]:
    """First and last step not to train: from the target to the onset and as far past it as the spike was seen, within limits."""
    past_onset = min(incident.verdict_step - incident.onset_step, recipe.spikes.max_skip_steps)
    return target_step + 1, min(incident.onset_step + past_onset, recipe.stage(incident.stage).steps)


def chunk_position(stage: Stage, step: int) -> int:
    """The position, from 0, of the chunk that the step trains on."""
    return (step - 1) // stage.steps_per_chunk


def _open_incident(facts: Sequence[Fact], event: Event) -> IncidentOpened:
    number = 1 + max((f.incident for f in facts if isinstance(f, IncidentOpened)), default=0)
    evidence = {
        "rise_nats": event.rise_nats,
        "z": event.z,
        "reference": event.reference,
        "deviation": event.deviation,
        "age": float(event.age),
    }
    if event.small_grad_fraction is not None:
        evidence["small_grad_fraction"] = event.small_grad_fraction
    return IncidentOpened(
        incident=number,
        stage=event.stage,
        attempt=event.attempt,
        kind=event.kind,
        onset_step=event.onset_step,
        verdict_step=event.verdict_step,
        evidence=evidence,
    )


def _num_rollbacks(facts: Sequence[Fact]) -> int:
    return sum(isinstance(f, IncidentDecided) and f.action == "rollback" for f in facts)


def _suitable_operation(recipe: Recipe, incident: IncidentOpened, wished: Literal["skip", "defer"]) -> DataOperation:
    """A bad resume is not the data's fault; the last chunk of the order cannot move to its end."""
    stage = recipe.stage(incident.stage)
    if incident.kind == "bad_resume":
        return "none"
    if chunk_position(stage, incident.onset_step) == stage.chunks - 1:
        return "skip"
    return wished


def _is_small(recipe: Recipe, incident: IncidentOpened, target: HeldCheckpoint | None, data: DataOperation) -> bool:
    """Whether a policy may go there: it skips little before the onset, and does not return to the start of a stage from far into it.

    Where the rescue checkpoints are there, two margins and the way to the next older one lie within the limit.
    """
    limit = recipe.spikes.max_skip_steps + recipe.spikes.margin_steps + recipe.checkpoints.rescue_every_steps
    if data == "skip":
        return incident.onset_step - (target.step if target is not None else 0) <= limit
    if target is not None:
        return True
    first = recipe.stage(incident.stage).steps_per_chunk if data == "defer" else limit
    return incident.onset_step <= first


def _latest_target_step(recipe: Recipe, facts: Sequence[Fact], incident: IncidentOpened, data: DataOperation) -> int:
    if incident.kind == "bad_resume":  # older than the files that it started from: they are never tried twice
        return _first_step(facts, incident.attempt) - 2
    repeats = _num_repeats(recipe, facts, incident)
    with_margin = incident.onset_step - (recipe.spikes.margin_steps << repeats)
    if data != "defer":
        return with_margin
    stage = recipe.stage(incident.stage)
    chunk_start = chunk_position(stage, incident.onset_step) * stage.steps_per_chunk
    return min(chunk_start, with_margin) if repeats else chunk_start


def _first_step(facts: Sequence[Fact], attempt: int) -> int:
    return next((f.first_step for f in facts if isinstance(f, AttemptStarted) and f.attempt == attempt), 1)


def _num_repeats(recipe: Recipe, facts: Sequence[Fact], incident: IncidentOpened) -> int:
    """How often a spike in this region of the stage was rolled back before."""
    region = _REGION_PERSISTENCES * recipe.spikes.persistence_steps
    rolled_back = {f.incident for f in facts if isinstance(f, IncidentDecided) and f.action == "rollback"}
    others = [f for f in facts if isinstance(f, IncidentOpened) and f.incident in rolled_back - {incident.incident}]
    return sum(f.stage == incident.stage and f.kind != "bad_resume" and abs(f.onset_step - incident.onset_step) <= region for f in others)


def _go_back(
    recipe: Recipe, facts: Sequence[Fact], incident: IncidentOpened, target: HeldCheckpoint | None, data: DataOperation, who: str
) -> tuple[Fact, ...]:
    """The data operation, then the decision: were the append torn between them, the incident would ask, not go back to the same data.

    An operation that stands since such an append is not repeated: a second deferral would move another chunk.
    """
    name = target.name if target is not None else None
    decision = IncidentDecided(incident=incident.incident, action="rollback", checkpoint=name, data=data, who=who)
    operation = _data_operation(recipe, incident, target, data, who)
    standing = [_content(fact) for fact in facts if isinstance(fact, StepsSkipped | ChunkDeferred)]
    return (decision,) if operation is None or _content(operation) in standing else (operation, decision)


def _data_operation(
    recipe: Recipe, incident: IncidentOpened, target: HeldCheckpoint | None, data: DataOperation, who: str
) -> StepsSkipped | ChunkDeferred | None:
    why = f"incident {incident.incident:03d}: {incident.kind} with its onset at step {incident.onset_step}"
    if data == "none":
        return None
    if data == "defer":
        position = chunk_position(recipe.stage(incident.stage), incident.onset_step)
        return ChunkDeferred(stage=incident.stage, position=position, who=who, why=why)
    first, last = skip_window(recipe, incident, target.step if target is not None else 0)
    return StepsSkipped(stage=incident.stage, first_step=first, last_step=last, who=who, why=why)


def _content(operation: StepsSkipped | ChunkDeferred) -> dict[str, object]:
    """What is done and for which incident, whoever asked for it and when."""
    return operation.model_dump(exclude={"at", "prev", "who"})


def _undecided(facts: list[Fact], number: int) -> IncidentOpened:
    opened = [f for f in facts if isinstance(f, IncidentOpened)]
    found = next((f for f in opened if f.incident == number), None)
    if found is None:
        known = ", ".join(str(f.incident) for f in opened) or "none"
        raise DecisionRefused(f"there is no incident {number}; the run has {known}. `k2 status` lists them")
    given = decision_of(facts, number)
    if given is not None:
        raise DecisionRefused(
            f"incident {number} was answered already, with {given.action!r} by {given.who} at {given.at}; a decision is single-use"
        )
    return found


def _named_target(recipe: Recipe, holdings: Holdings, incident: IncidentOpened, name: str, data: DataOperation) -> HeldCheckpoint | None:
    """The checkpoint that a human named, if it is held and lies before what is to be undone."""
    before = recipe.first_checkpoint_number(incident.stage)
    if before and name == checkpoint_name(before):
        return None
    stage = recipe.stage(incident.stage)
    held = {c.name: c for c in holdings.of_stage(incident.stage)}
    latest = incident.onset_step - 1 if data != "defer" else chunk_position(stage, incident.onset_step) * stage.steps_per_chunk
    fit = [c.name for c in held.values() if c.step <= latest]
    if name not in fit:
        what = f"is at step {held[name].step}, past step {latest}" if name in held else f"is no checkpoint of {incident.stage}"
        raise DecisionRefused(
            f"--to {name} {what}: the onset is at step {incident.onset_step}. These can be gone back to: {', '.join(fit) or 'none'}; "
            f"without --to the policy chooses"
        )
    return held[name]
