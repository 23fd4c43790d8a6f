"""`k2 verify-resume`, as a user asks it: from one world to another, within the tolerance that it states."""

import json

import pytest
from machine import MINI, Machine

pytestmark = pytest.mark.slow


def proof(machine: Machine, *more: str) -> dict[str, object]:
    asked = ("verify-resume", str(MINI), "--place", str(machine.place), "--steps", "6", "--json", *more)
    done = machine.k2(*asked)
    assert done.returncode == 0, done.stderr[-4000:]
    assert list(machine.runs.iterdir()) == []
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_resume_by_other_ranks_takes_the_same_samples(machine: Machine) -> None:
    found = proof(machine, "--world", "pp2dp1tp1", "--then", "pp1dp1tp2spmb4")
    assert found["holds"] and not found["equal"]
    assert 0 < found["max_abs_difference"] <= 1e-5
