"""Optimizer state that is lost on a resume is caught before it counts, and the next older checkpoint is used: a real run, three ways."""

import json

import pytest
from machine import LONGER, MINI, Machine

from k2.run.ledger import AttemptStarted, CheckpointQuarantined, ResumeRefused, read_facts

pytestmark = pytest.mark.slow

KILLS = [
    {"at": "step.begin", "rank": 1, "attempt": attempt, "step": step, "do": "SIGKILL"} for attempt, step in ((1, 24), (3, 44), (5, 64))
]
FAULTS = [  # at a resume of these first steps, on every rank
    {"at": "resume.after_optim", "step": 21, "do": "lose"},  # seen before the first step: what was loaded is measured
    {"at": "resume.checked", "step": 41, "do": "zero"},  # seen by the second step: the first loss depends on the weights alone
    {"at": "resume.checked", "step": 61, "do": "reset"},
]
CAUGHT = [("rescue_stage1_000020", 0), ("ckpt_001", 42), ("rescue_stage1_000060", 62)]
STARTS = [None, "rescue_stage1_000020", "rescue_stage1_000010", "ckpt_001", "rescue_stage1_000030", "rescue_stage1_000060"]


def test_lost_optimizer_state_is_caught_and_an_older_checkpoint_tried(machine: Machine, reference: Machine) -> None:
    place = machine.root / "waiting.toml"  # each checkpoint stands before the next step, so that what is resumed from is no matter of time
    place.write_text(machine.place.read_text() + 'saving = "waiting"\n')
    done = machine.k2("run", str(MINI), "--run", "mini", "--place", str(place), *LONGER, K2_FAULTS=json.dumps(KILLS + FAULTS), timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
    facts = read_facts(machine.layout("mini").ledger)
    assert [(fact.checkpoint, fact.step) for fact in facts if isinstance(fact, ResumeRefused)] == CAUGHT
    assert [fact.checkpoint for fact in facts if isinstance(fact, CheckpointQuarantined)] == [name for name, _ in CAUGHT]
    starts = [fact.checkpoint for fact in facts if isinstance(fact, AttemptStarted) and fact.stage == "stage1"]
    assert starts == [*STARTS, "rescue_stage1_000050"]
    assert machine.losses("mini") == reference.losses("mini")
