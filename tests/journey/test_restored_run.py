"""A published checkpoint in somebody else's hands: one command makes a run of it, and it trains on to the same losses."""

import json

import pytest
from machine import MINI, Machine

from k2.run.ledger import RunRestored, read_facts

pytestmark = pytest.mark.slow


def test_a_published_checkpoint_trains_on_bit_equal(machine: Machine) -> None:
    done = machine.k2("run", str(MINI), "--run", "mini", "--place", str(machine.place))
    assert done.returncode == 0, done.stderr[-4000:]
    published = machine.root / "published" / "mini"
    restored = machine.k2("restore", f"file://{published}/ckpt_002", "--run", "again", "--place", str(machine.place), "--json")
    assert restored.returncode == 0, restored.stderr[-4000:]
    said = json.loads(restored.stdout)
    assert said["verified"] is True
    assert (said["checkpoint"], said["missing_chunks"]) == ("ckpt_002", [])
    resumed = machine.k2("resume", "again")
    assert resumed.returncode == 0, resumed.stderr[-4000:]
    assert machine.losses("again") == machine.losses("mini")
    status = machine.status("again")
    assert status["state"] == "done"
    assert [c["name"] for c in status["checkpoints"]] == ["ckpt_002", "ckpt_003", "ckpt_004"]  # type: ignore[attr-defined, index]
    facts = read_facts(machine.layout("again").ledger)
    [origin] = [fact for fact in facts if isinstance(fact, RunRestored)]
    assert origin.source == f"file://{published}"
