"""What a loud resume just behind a skipped window says: that the bad data goes on, not that the files are bad. Pure.

A verdict `bad_resume` blames the checkpoint, and rightly where the steps after it were trained before and were calm. Straight
behind a window that a rollback skipped they are new data, and the checkpoint has shown itself good already: an earlier attempt
trained calm steps from the same state, and the canary holds that what was loaded is what was saved (`train.resuming`; else the
attempt is refused, without an incident). What is left is data: a poison that outlasts the window.
"""

from collections.abc import Sequence

from k2.run.ledger import AttemptStarted, ChunkDeferred, Fact, IncidentDecided, IncidentOpened, StepsSkipped

_CALM_STEPS = 2  # from the same state; what a resume lost shows by the second (`watch.canary`)


def blames_files(facts: Sequence[Fact], incident: IncidentOpened) -> bool:
    """Whether the incident is the fault of what its attempt was resumed from."""
    return incident.kind == "bad_resume" and _fresh_since(facts, incident) is None


def skip_before(facts: Sequence[Fact], incident: IncidentOpened) -> StepsSkipped | None:
    """The window that a bad resume lies just behind, where it blames the data."""
    if incident.kind != "bad_resume":
        return None
    operation = _fresh_since(facts, incident)
    return operation if isinstance(operation, StepsSkipped) else None


def _fresh_since(facts: Sequence[Fact], incident: IncidentOpened) -> StepsSkipped | ChunkDeferred | None:
    """The operation that put new data behind a state known to be good, where the incident begins; None where the steps were not new."""
    position = next((i for i, f in enumerate(facts) if isinstance(f, AttemptStarted) and f.attempt == incident.attempt), None)
    if position is None:
        return None
    started, before = facts[position], list(facts[:position])
    rollback = next((f for f in reversed(before) if isinstance(f, IncidentDecided) and f.action == "rollback"), None)
    if rollback is None or rollback.data == "none" or not isinstance(started, AttemptStarted):
        return None
    answered = next((f for f in before if isinstance(f, IncidentOpened) and f.incident == rollback.incident), None)
    if answered is None or answered.stage != incident.stage or answered.onset_step - started.first_step < _CALM_STEPS:
        return None
    operations = [f for f in before if isinstance(f, StepsSkipped | ChunkDeferred) and f.stage == incident.stage]
    return operations[-1] if operations and _is_just_behind(operations[-1], rollback, started, incident) else None


def _is_just_behind(
    operation: StepsSkipped | ChunkDeferred, rollback: IncidentDecided, started: AttemptStarted, incident: IncidentOpened
) -> bool:
    """Whether the attempt began at or before what was taken out, and its first loud step comes after it."""
    if isinstance(operation, StepsSkipped):
        return started.first_step <= operation.last_step < incident.onset_step
    return started.checkpoint == rollback.checkpoint
