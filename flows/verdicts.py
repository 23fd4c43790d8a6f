"""How an attempt ended, and what its records say, as facts: written together, so that no end stands unjudged.

`close_attempt` is called when a trainer has ended; `take_over` by every driver before anything else, for what the one
before it left behind. Verdicts are functions of records and ledger: whoever judges, and whenever, it is the same.
"""

from datetime import UTC, datetime

from flows.resumption import set_bad_resume_aside
from flows.run import Run
from k2.run.injection import strike
from k2.run.ledger import AttemptEnded, AttemptStarted, Fact
from k2.run.plan import open_incident
from k2.run.records import accepted_of, branches, read_records, replayed_losses
from k2.watch.policy import answer, judge


def close_attempt(run: Run, ended: AttemptEnded) -> None:
    """Note the end of the attempt and the answer to its malignant verdict, if it has one that nobody answered."""
    strike("attempt.ended")
    refused = set_bad_resume_aside(run, ended)
    run.record(ended, *refused, *(() if refused else _answers(run, run.facts())))
    strike("verdict.recorded")


def take_over(run: Run) -> None:
    """Close the attempt that a killed driver left open, and answer what its records say."""
    facts = run.facts()
    started = _last_started(facts)
    if started is not None and not any(isinstance(fact, AttemptEnded) and fact.attempt == started.attempt for fact in facts):
        close_attempt(run, _lost(run, started))
    else:
        answer_verdicts(run)


def answer_verdicts(run: Run) -> None:
    """Answer the last attempt's malignant verdict that nobody answered by the recipe's policy, if there is one."""
    run.record(*_answers(run, run.facts()))


def _answers(run: Run, facts: list[Fact]) -> tuple[Fact, ...]:
    last = _last_started(facts)
    if last is None or open_incident(facts) is not None:
        return ()
    read = branches(run.layout, facts, last.stage)
    accepted, replayed = accepted_of(read, facts, last.stage), replayed_losses(read, facts, last.stage)
    event = judge(run.recipe, facts, last.stage, accepted, replayed)
    if event is None:
        return ()
    run.say(f"{event.kind} spike: onset at step {event.onset_step}, verdict at {event.verdict_step}, {event.rise_nats:+.2f} nat")
    return answer(run.recipe, facts, run.holdings(), event)


def _last_started(facts: list[Fact]) -> AttemptStarted | None:
    started = [fact for fact in facts if isinstance(fact, AttemptStarted)]
    return started[-1] if started else None


def _lost(run: Run, started: AttemptStarted) -> AttemptEnded:
    """The end of an attempt that nobody saw: at its last record, so that the time after it is not booked to training."""
    seconds = [record.at for record in read_records(run.layout.metrics(started.stage, started.attempt))]
    at = datetime.fromtimestamp(max(seconds), UTC).isoformat(timespec="milliseconds") if seconds else started.at
    return AttemptEnded(at=at, attempt=started.attempt, outcome="lost", exit_code=-1, reason="its driver was killed")
