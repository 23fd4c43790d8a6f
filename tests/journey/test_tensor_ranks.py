"""Tensor ranks with sequence parallelism, as a user runs them: stopped and resumed they train what they train unbroken, to the bit.

And what the ranks of a pipeline train, but for the rounding of sums, over a whole stage.
"""

from pathlib import Path

import pytest
from machine import LONGER, MINI, PARITY_NATS, Machine, largest_difference

pytestmark = pytest.mark.slow

LAYOUT = ("layout.pipeline=1", "layout.tensor=2", "layout.sequence_parallel=true")
SETTINGS = (*LONGER, *(part for one in (*LAYOUT, "evaluation.every=9") for part in ("--set", one)))


def first_stage_alone(machine: Machine) -> Path:
    before, _, after = MINI.read_text().partition('\n[[stages]]\nname = "stage2"')
    recipe = machine.root / "first_stage.toml"
    recipe.write_text(before + after[after.index("\n[layout]") :])
    return recipe


def test_a_stop_saves_and_is_resumed(machine: Machine, reference: Machine) -> None:
    recipe, place = str(first_stage_alone(machine)), str(machine.place)
    unbroken = machine.k2("run", recipe, "--run", "unbroken", "--place", place, *SETTINGS)
    assert unbroken.returncode == 0, unbroken.stderr[-4000:]
    machine.stop_at("mini", 25, "run", recipe, "--run", "mini", "--place", place, *SETTINGS)
    resumed = machine.k2("resume", "mini")
    assert resumed.returncode == 0, resumed.stderr[-4000:]
    assert machine.status("mini")["state"] == "done"
    losses = machine.losses("mini")
    assert len(losses) == 120
    assert losses == machine.losses("unbroken")
    assert 0 < largest_difference(losses, reference.losses("mini")) <= PARITY_NATS
