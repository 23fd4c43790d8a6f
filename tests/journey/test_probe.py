"""A chip that computes wrongly for three steps: the replay probe tells it from bad data, also where the driver is killed meanwhile."""

import json
import signal

import pytest
from machine import LONGER, MINI, Machine

from k2.run.ledger import DataOperation, IncidentDecided, ReplayProbed, read_facts

pytestmark = pytest.mark.slow

PROBING = ("persistence_steps=8", "margin_steps=4", "probe=true")
SETTINGS = (*LONGER, "--set", "layout.pipeline=1", *(part for one in PROBING for part in ("--set", f"spikes.{one}")))
WRONG_CHIP = [{"at": "step.begin", "step": step, "attempt": 1, "do": "miscompute"} for step in (61, 62, 63)]


def test_a_spike_that_a_replay_does_not_repeat_is_the_hardwares_and_no_data_is_skipped(machine: Machine) -> None:
    killed = json.dumps([*WRONG_CHIP, {"at": "probe.trained", "do": "SIGKILL"}])
    first = machine.k2("run", str(MINI), "--run", "mini", "--place", str(machine.place), *SETTINGS, K2_FAULTS=killed)
    assert first.returncode == -signal.SIGKILL, first.stderr[-4000:]
    facts = read_facts(machine.layout("mini").ledger)
    assert not any(isinstance(fact, ReplayProbed | IncidentDecided) for fact in facts)  # what is not in the ledger is done again
    resumed = machine.k2("resume", "mini", K2_FAULTS=json.dumps(WRONG_CHIP))
    assert resumed.returncode == 0, resumed.stderr[-4000:]
    facts = read_facts(machine.layout("mini").ledger)
    [probed] = [fact for fact in facts if isinstance(fact, ReplayProbed)]
    assert (probed.checkpoint, probed.reproduced, probed.differs_at) == ("rescue_stage1_000050", False, 62)  # the step after the update
    [decided] = [fact for fact in facts if isinstance(fact, IncidentDecided)]
    assert (decided.action, decided.checkpoint, decided.data, decided.who) == ("rollback", "rescue_stage1_000050", "none", "policy")
    assert not any(isinstance(fact, DataOperation) for fact in facts)
    assert sorted(step for stage, step in machine.losses("mini") if stage == "stage1") == list(range(1, 121))
    assert machine.status("mini")["state"] == "done"
