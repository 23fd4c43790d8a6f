"""What a bad resume leads to: the attempt's word for it is made a fact, and the checkpoint goes to the quarantine.

The next older checkpoint is then what `next_action` names. Nothing that a bad attempt saved counts either.
"""

from flows.run import Run
from k2.checkpoint.select import quarantine
from k2.run.control import read_bad_resume
from k2.run.holdings import held_checkpoints
from k2.run.ledger import AttemptEnded, AttemptStarted, CheckpointQuarantined, Fact, ResumeRefused
from k2.run.receipt import read_receipt


def set_bad_resume_aside(run: Run, ended: AttemptEnded) -> tuple[Fact, ...]:
    """Set aside what the attempt started from, if it said that it came out wrong, and what it saved; the facts of it.

    Idempotent until the facts are written: what a killed driver has moved already is not looked for again.
    """
    found = read_bad_resume(run.layout, ended.attempt)
    if found is None:
        return ()
    made = [c.name for c in held_checkpoints(run.recipe, run.layout) if _attempt_of(run, c.name) == ended.attempt]
    for name in (*made, found.checkpoint):
        quarantine(run.layout, name)
    run.say(f"{found.why}; {', '.join((found.checkpoint, *made))} set aside in {run.layout.quarantine}, the next older is tried")
    refused = ResumeRefused(attempt=found.attempt, checkpoint=found.checkpoint, step=found.step, why=found.why[:2000])
    return refused, *(CheckpointQuarantined(checkpoint=name, why=found.why[:2000]) for name in (found.checkpoint, *made))


def refused_in_a_row(facts: list[Fact]) -> list[ResumeRefused]:
    """The refusals of the newest attempts, newest first, up to one that was none."""
    refused = {fact.attempt: fact for fact in facts if isinstance(fact, ResumeRefused)}
    row = []
    for attempt in reversed([fact.attempt for fact in facts if isinstance(fact, AttemptStarted)]):
        if attempt not in refused:
            break
        row.append(refused[attempt])
    return row


def _attempt_of(run: Run, name: str) -> object:
    return read_receipt(run.layout.checkpoint(name)).facts.get("attempt")
