"""What happened, in sentences: every incident and every fact of the ledger, for a reader who was not there."""

from collections.abc import Mapping
from dataclasses import dataclass

from k2.report.curves import Drawn, incident_curve
from k2.report.lineage import Lineage, abandoned_branch, operations_of, relaunch_after
from k2.report.words import duration, number
from k2.run.ledger import (
    AttemptEnded,
    AttemptStarted,
    CheckpointQuarantined,
    ChunkDeferred,
    ChunkRepeated,
    ChunksReordered,
    DutyFailed,
    Fact,
    IncidentClosed,
    IncidentDecided,
    IncidentOpened,
    ReplayProbed,
    ResumeRefused,
    RunCreated,
    RunRestored,
    SamplesSkipped,
    StepsSkipped,
    UpdatesTempered,
)
from k2.run.operations import words
from k2.run.plan import decision_of

KINDS = {
    "malignant.long": "a long malignant spike",
    "malignant.train": "a malignant train of spikes",
    "malignant.creep": "a malignant slow rise",
    "nonfinite": "a loss that is no number any more",
    "bad_resume": "a bad resume",
}


@dataclass(frozen=True)
class IncidentStory:
    """One incident: sentences, numbers, a close view, and where its evidence lies (relative to the page)."""

    number: int
    kind: str
    stage: str
    onset_step: int
    verdict_step: int
    state: str  # healed, decided, waiting
    sentences: tuple[str, ...]
    numbers: Mapping[str, str]
    curve: Drawn | None
    abandoned: tuple[str, ...]
    skips: bool


@dataclass(frozen=True)
class TimelineEntry:
    """One line of the ledger."""

    at: str
    kind: str  # for its colour
    text: str


def incident_stories(lineage: Lineage, facts: list[Fact]) -> tuple[IncidentStory, ...]:
    return tuple(_story(lineage, facts, fact) for fact in facts if isinstance(fact, IncidentOpened))


def _story(lineage: Lineage, facts: list[Fact], incident: IncidentOpened) -> IncidentStory:
    decision, closed = decision_of(facts, incident.incident), _closed(facts, incident)
    part = lineage.of(incident.stage)
    return IncidentStory(
        number=incident.incident,
        kind=incident.kind,
        stage=incident.stage,
        onset_step=incident.onset_step,
        verdict_step=incident.verdict_step,
        state="waiting" if decision is None else "healed" if closed else "decided",
        sentences=(_verdict_sentence(incident), *_decision_sentences(facts, incident, decision)),
        numbers=_numbers(lineage, facts, incident),
        curve=incident_curve(part, facts, incident),
        abandoned=closed.abandoned if closed else (),
        skips=any(isinstance(fact, StepsSkipped) for fact in operations_of(facts, incident)),
    )


def _closed(facts: list[Fact], incident: IncidentOpened) -> IncidentClosed | None:
    return next((f for f in facts if isinstance(f, IncidentClosed) and f.incident == incident.incident), None)


def _verdict_sentence(incident: IncidentOpened) -> str:
    steps, kind = incident.verdict_step - incident.onset_step, KINDS.get(incident.kind, incident.kind)
    if steps == 0:
        return f"At step {incident.onset_step:,} of {incident.stage} the run was judged at once: {kind}."
    return (
        f"At step {incident.onset_step:,} of {incident.stage} the loss left its reference and did not come back. "
        f"{steps} steps later, at step {incident.verdict_step:,}, the verdict: {kind}."
    )


def _decision_sentences(facts: list[Fact], incident: IncidentOpened, decision: IncidentDecided | None) -> list[str]:
    if decision is None:
        return ["Nothing is decided yet: the run waits for a person."]
    who = "The policy" if decision.who == "policy" else f"{decision.who}"
    if decision.action == "continue":
        return [f"{who} let it go on."]
    if decision.action == "abort":
        return [f"{who} ended the run."]
    sentences = [f"{who} went back to {decision.checkpoint or 'the start of the stage'}{_data_clause(facts, incident)}."]
    relaunch = relaunch_after(facts, incident)
    if relaunch is not None:
        sentences.append(f"Attempt {relaunch.attempt} went on from step {relaunch.first_step:,}.")
    return sentences


def _data_clause(facts: list[Fact], incident: IncidentOpened) -> str:
    clauses = []
    for fact in operations_of(facts, incident):
        if isinstance(fact, StepsSkipped):
            clauses.append(f"skipped steps {fact.first_step:,} to {fact.last_step:,}")
        elif isinstance(fact, ChunkDeferred):
            clauses.append(f"moved the chunk at position {fact.position} to the end of the order")
    return "".join(f" and {clause}" for clause in clauses)


def _numbers(lineage: Lineage, facts: list[Fact], incident: IncidentOpened) -> dict[str, str]:
    branch = abandoned_branch(lineage.of(incident.stage), facts, incident)
    shown = {name.replace("_", " "): number(value) for name, value in incident.evidence.items()}
    if branch:
        shown["steps abandoned"] = f"{len(branch):,}"
        shown["time abandoned"] = duration(sum(record.seconds for record in branch))
    return shown


def timeline(facts: list[Fact]) -> tuple[TimelineEntry, ...]:
    """The whole ledger, oldest first."""
    return tuple(TimelineEntry(fact.at[:19].replace("T", " "), *_event(fact)) for fact in facts)


def _event(fact: Fact) -> tuple[str, str]:
    match fact:
        case IncidentOpened() | ReplayProbed() | IncidentDecided() | IncidentClosed():
            return _incident_event(fact)
        case StepsSkipped() | SamplesSkipped() | ChunkDeferred() | ChunksReordered() | ChunkRepeated():
            return "data", f"{fact.stage}: {words(fact)}, by {fact.who}: {fact.why}"
        case RunRestored():
            return "plain", f"Restored from {fact.checkpoint} as published at {fact.source}: what stands before happened there"
        case UpdatesTempered():
            factors = f"learning rate x {number(fact.learning_rate_factor)}, clip x {number(fact.clip_factor)}"
            return "data", f"{fact.stage}: {factors} in steps {fact.first_step:,} to {fact.last_step:,}, by {fact.who}: {fact.why}"
        case CheckpointQuarantined() | ResumeRefused() | DutyFailed():
            return "bad", _trouble(fact)
        case _:
            return _attempt_event(fact)


def _trouble(fact: CheckpointQuarantined | ResumeRefused | DutyFailed) -> str:
    match fact:
        case CheckpointQuarantined():
            return f"{fact.checkpoint} set aside: {fact.why}"
        case ResumeRefused():
            return f"Attempt {fact.attempt} refused what {fact.checkpoint} gave: {fact.why}"
        case DutyFailed():
            return f"{fact.checkpoint} is still owed to be {fact.duty}: {fact.why}"


def _attempt_event(fact: RunCreated | AttemptStarted | AttemptEnded) -> tuple[str, str]:
    match fact:
        case RunCreated():
            return "plain", f"Run {fact.run} created from recipe {fact.recipe_name}"
        case AttemptStarted():
            return (
                "plain",
                f"Attempt {fact.attempt} of {fact.stage} started at step {fact.first_step:,} from {fact.checkpoint or 'scratch'}",
            )
        case AttemptEnded():
            reason = f": {fact.reason}" if fact.reason else ""
            return (
                "bad" if fact.outcome in {"crashed", "lost"} else "plain",
                f"Attempt {fact.attempt} {fact.outcome} (exit code {fact.exit_code}){reason}",
            )


def _incident_event(fact: IncidentOpened | ReplayProbed | IncidentDecided | IncidentClosed) -> tuple[str, str]:
    match fact:
        case IncidentOpened():
            return "bad", f"Incident {fact.incident} opened: {fact.kind}, onset at step {fact.onset_step:,} of {fact.stage}"
        case ReplayProbed():
            outcome = "came back: it is the data's" if fact.reproduced else "did not come back: the hardware is suspected"
            why = f" ({fact.why})" if fact.why else ""
            return "plain", f"Incident {fact.incident}: the same data was trained again, and the spike {outcome}{why}"
        case IncidentDecided():
            target = f" to {fact.checkpoint or 'the start of the stage'}" if fact.action == "rollback" else ""
            return "good", f"Incident {fact.incident}: {fact.action}{target}, decided by {fact.who}"
        case IncidentClosed():
            kept = f"; kept as evidence: {', '.join(fact.abandoned)}" if fact.abandoned else ""
            return "good", f"Incident {fact.incident} closed{kept}"
