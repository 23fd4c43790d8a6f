"""Optimizer state that is lost on a resume is caught before it counts, and the next older checkpoint is used: a real run, three ways."""

import json
import os
import signal

import pytest
from machine import LONGER, Machine, wait_until

from k2.run.ledger import AttemptStarted, CheckpointQuarantined, ResumeRefused, read_facts

pytestmark = pytest.mark.slow

FAULTS = [  # at a resume of these first steps, on every rank
    {"at": "resume.after_optim", "step": 21, "do": "lose"},  # seen before the first step: what was loaded is measured
    {"at": "resume.checked", "step": 41, "do": "zero"},  # seen by the second step: the first loss depends on the weights alone
    {"at": "resume.checked", "step": 61, "do": "reset"},
]
CAUGHT = [("rescue_stage1_000020", 0), ("ckpt_001", 42), ("rescue_stage1_000060", 62)]
STARTS = [None, "rescue_stage1_000020", "rescue_stage1_000010", "ckpt_001", "rescue_stage1_000030", "rescue_stage1_000060"]


def test_lost_optimizer_state_is_caught_and_an_older_checkpoint_tried(machine: Machine, reference: Machine) -> None:
    driver = machine.start(*machine.run_mini("mini", *LONGER), K2_FAULTS=json.dumps(FAULTS))
    for kill_at in (23, 43, 63):
        machine.wait_for_step("mini", "stage1", kill_at)
        wait_until((machine.layout("mini").checkpoint(resumed_from(kill_at)) / "receipt.json").exists, 60)
        os.kill(machine.ranks("mini")[-1], signal.SIGKILL)
    _, err = driver.communicate(timeout=240)
    assert driver.returncode == 0, err[-4000:]
    facts = read_facts(machine.layout("mini").ledger)
    assert [(fact.checkpoint, fact.step) for fact in facts if isinstance(fact, ResumeRefused)] == CAUGHT
    assert [fact.checkpoint for fact in facts if isinstance(fact, CheckpointQuarantined)] == [name for name, _ in CAUGHT]
    starts = [fact.checkpoint for fact in facts if isinstance(fact, AttemptStarted) and fact.stage == "stage1"]
    assert starts == [*STARTS, "rescue_stage1_000050"]
    assert machine.losses("mini") == reference.losses("mini")


def resumed_from(step: int) -> str:
    return "ckpt_001" if step == 43 else f"rescue_stage1_{step - 3:06d}"
