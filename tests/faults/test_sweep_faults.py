"""A seeded sample of the killed sweeps whose full count the script beside gives."""

import pytest
from kill_sweep import kill_sweep


@pytest.mark.slow
def test_a_killed_sweep_redoes_nothing_and_forgets_nothing(tmp_path):
    tally = kill_sweep(tmp_path, count=2, seed=1, checkpoints=3)
    assert (tally.kills, tally.redone, tally.owed, tally.left) == (2, set(), [], [])
    assert tally.obligations == 3 * (3 + 7)  # verified, exported, evaluated, and seven tasks
