"""What a verdict leads to: pure, from records, ledger and held checkpoints to facts.

`judge` finds the verdict that nobody answered yet, `answer` and `decide` (the policy's and a human's answer) say
where to go back to and what becomes of the data. All of it is the same for a run that was killed in the middle.
K2 §3.1 went back to a checkpoint before the spike and deferred its chunk; PaLM skipped 200 to 500 batches.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from k2.recipe.schema import Recipe
from k2.run.holdings import HeldCheckpoint, Holdings
from k2.run.layout import checkpoint_name
from k2.run.ledger import ChunkDeferred, Fact, IncidentDecided, IncidentOpened, StepsSkipped, UpdatesTempered
from k2.run.plan import decision_of
from k2.run.records import StepRecord, attempts_of
from k2.watch.budget import reason_to_ask, remedy
from k2.watch.event import Event
from k2.watch.probe import is_hardware, wanted_probe
from k2.watch.spikes import observe
from k2.watch.stage import NOTHING, stage_detector
from k2.watch.target import DataOperation, chunk_position, rollback_target, skip_window, suitable_operation

Choice = Literal["rollback", "continue", "abort"]


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
    """The facts that answer the verdict by the recipe's mode. An incident without a decision waits for a human, or for its probe."""
    opened = _open_incident(facts, event)
    if recipe.spikes.mode == "observe":
        return opened, IncidentDecided(incident=opened.incident, action="continue")
    reason = why_asked(recipe, facts, holdings, opened)
    if reason is not None:
        return (opened.model_copy(update={"why_asked": reason}),)
    return opened, *answer_opened(recipe, facts, holdings, opened)


def answer_opened(recipe: Recipe, facts: list[Fact], holdings: Holdings, incident: IncidentOpened) -> tuple[Fact, ...]:
    """The policy's own answer to an incident; none where a human or a probe comes first. Ask again when the probe's fact is there."""
    if why_asked(recipe, facts, holdings, incident) is not None or wanted_probe(recipe, facts, holdings, incident) is not None:
        return ()
    target, data = _own_choice(recipe, facts, holdings, incident)
    return _go_back(recipe, facts, incident, target, data, "policy")


def why_asked(recipe: Recipe, facts: list[Fact], holdings: Holdings, incident: IncidentOpened) -> str | None:
    """Why the policy leaves the incident to a human, as a sentence; None where it answers alone."""
    return reason_to_ask(recipe, facts, incident, *_own_choice(recipe, facts, holdings, incident))


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
    operation = _operation(recipe, facts, opened, data or recipe.spikes.bypass)
    if data is not None and operation != data:
        raise DecisionRefused(
            f"--data {data} has no effect on this incident ({opened.kind} at step {opened.onset_step}); use --data skip, or leave it out"
        )
    if to is None:
        target = rollback_target(recipe, facts, holdings, opened, operation)
    else:
        target = _named_target(recipe, holdings, opened, to, operation)
    return _go_back(recipe, facts, opened, target, operation, who)


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


def _own_choice(
    recipe: Recipe, facts: list[Fact], holdings: Holdings, incident: IncidentOpened
) -> tuple[HeldCheckpoint | None, DataOperation]:
    """Where the policy would go, and what it would do with the data."""
    data = _operation(recipe, facts, incident, recipe.spikes.bypass)
    return rollback_target(recipe, facts, holdings, incident, data), data


def _operation(recipe: Recipe, facts: Sequence[Fact], incident: IncidentOpened, wished: Literal["skip", "defer"]) -> DataOperation:
    """What becomes of the data: nothing where a probe has shown it innocent."""
    return "none" if is_hardware(facts, incident) else suitable_operation(recipe, facts, incident, wished)


def _go_back(
    recipe: Recipe, facts: Sequence[Fact], incident: IncidentOpened, target: HeldCheckpoint | None, data: DataOperation, who: str
) -> tuple[Fact, ...]:
    """The operations, then the decision: were the append torn between them, the incident would ask, not go back to the same data.

    An operation that stands since such an append is not repeated: a second deferral would move another chunk.
    """
    name, step = (target.name, target.step) if target is not None else (None, 0)
    decision = IncidentDecided(incident=incident.incident, action="rollback", checkpoint=name, data=data, who=who)
    why = f"incident {incident.incident:03d}: {incident.kind} with its onset at step {incident.onset_step}"
    tempered = remedy(recipe, facts, incident, step, who, why)
    operations = [o for o in (_data_operation(recipe, facts, incident, step, data, who, why), tempered) if o is not None]
    standing = [_content(fact) for fact in facts if isinstance(fact, StepsSkipped | ChunkDeferred | UpdatesTempered)]
    return *(operation for operation in operations if _content(operation) not in standing), decision


def _data_operation(
    recipe: Recipe, facts: Sequence[Fact], incident: IncidentOpened, target_step: int, data: DataOperation, who: str, why: str
) -> StepsSkipped | ChunkDeferred | None:
    if data == "none":
        return None
    if data == "defer":
        position = chunk_position(recipe.stage(incident.stage), incident.onset_step)
        return ChunkDeferred(stage=incident.stage, position=position, who=who, why=why)
    first, last = skip_window(recipe, facts, incident, target_step)
    return StepsSkipped(stage=incident.stage, first_step=first, last_step=last, who=who, why=why)


def _content(operation: StepsSkipped | ChunkDeferred | UpdatesTempered) -> dict[str, object]:
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
