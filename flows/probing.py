"""The replay probe, performed: the suspicious steps once more on the same data, before a rollback is decided.

What enters is a held run with an incident that waits for its probe; what leaves are facts: how the probe came out, and the answer
that follows from it, in one append. Killed in the middle it has left nothing that counts, and is performed again.
"""

import time
from collections.abc import Callable

from flows.nodes import Nodes
from flows.run import Run
from k2.launch.local import Trainer
from k2.launch.pulse import Patience, Pulse
from k2.run.control import read_stop_request, request_stop
from k2.run.injection import strike
from k2.run.layout import checkpoint_name
from k2.run.ledger import IncidentOpened, ReplayProbed, last_attempt
from k2.run.plan import Train
from k2.run.records import accepted_records, read_records
from k2.watch.policy import answer_opened, why_asked
from k2.watch.probe import Probe, not_probed, probed, wanted_probe

_LOOK_SECONDS = 0.25


def owed_probe(run: Run, incident: IncidentOpened) -> Probe | None:
    """The probe that the open incident waits for; none where a human is asked, or the recipe wants none."""
    facts, holdings = run.facts(), run.holdings()
    if incident.why_asked is not None or why_asked(run.recipe, facts, holdings, incident) is not None:
        return None
    return wanted_probe(run.recipe, facts, holdings, incident)


def perform_probe(run: Run, incident: IncidentOpened, probe: Probe, asked: Callable[[], str | None]) -> None:
    """Train the probe's steps again, and record how it came out with the answer. Nothing is recorded where somebody asked for a stop."""
    run.say(
        f"incident {incident.incident:03d}: steps {probe.first_step} to {probe.last_step} are trained again on the same data, "
        f"from {probe.checkpoint or 'the start of the stage'}"
    )
    code = _train_again(run, _segment(run, probe), asked)
    if code == 0 and read_stop_request(run.layout) is not None:
        return
    strike("probe.trained")
    found = _outcome(run, incident, probe, code)
    run.say(f"incident {incident.incident:03d}: the spike {'came back' if found.reproduced else 'did not come back'}: {found.why}")
    run.record(found, *answer_opened(run.recipe, [*run.facts(), found], run.holdings(), incident))


def _segment(run: Run, probe: Probe) -> Train:
    before = run.recipe.first_checkpoint_number(probe.stage)
    checkpoint = probe.checkpoint or (checkpoint_name(before) if before else None)
    return Train(probe.stage, last_attempt(run.facts()) + 1, checkpoint, probe.first_step, probe.last_step, probe.incident)


def _train_again(run: Run, action: Train, asked: Callable[[], str | None]) -> int:
    """The exit code of the trainer; 0 where a stop was asked for. What an interrupted probe left is of no use to anybody."""
    assert action.probe is not None
    records = run.layout.probe(action.probe)
    records.unlink(missing_ok=True)
    nodes = Nodes(run)
    if not nodes.gather(asked):
        return 0
    pulse = Pulse(records, lambda _step: False, Patience(run.place.hang_floor_seconds))
    with Trainer.start(run.recipe, run.place, run.layout, action, run.lease) as trainer:
        strike("probe.started")
        while (code := trainer.poll()) is None:
            pulse.observe()
            if (why := nodes.why_hopeless(trainer, pulse)) is not None:
                run.say(why)
                trainer.kill()
            reason = asked()
            if reason is not None and read_stop_request(run.layout) is None:
                request_stop(run.layout, action.attempt, reason)
            time.sleep(_LOOK_SECONDS)
    return code


def _outcome(run: Run, incident: IncidentOpened, probe: Probe, code: int) -> ReplayProbed:
    if code != 0:
        run.layout.bad_resume.unlink(missing_ok=True)  # its word was about no attempt
        log = run.layout.probe_log(incident.incident)
        return not_probed(incident, probe, f"the probe ended with exit code {code}, see {log}; the data is held to be bad")
    again = {record.step: record.loss for record in read_records(run.layout.probe(incident.incident))}
    recorded = {record.step: record.loss for record in accepted_records(run.layout, run.facts(), incident.stage)}
    return probed(run.recipe, incident, probe, again, recorded)
