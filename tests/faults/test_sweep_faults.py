"""A seeded sample of the killed sweeps whose full count the script beside gives: with one device, and with two side by side."""

import subprocess
from pathlib import Path

import pytest
from kill_sweep import command, kill_sweep, lay_run

from k2.eval.scores import ScoreRow, read_scores
from k2.run.layout import RunLayout

CHECKPOINTS = 3


def rows(root: Path) -> list[ScoreRow]:
    return read_scores(RunLayout(root))


@pytest.mark.slow
def test_a_killed_sweep_redoes_nothing_and_forgets_nothing_and_scores_the_same_on_two_devices(tmp_path: Path) -> None:
    tally = kill_sweep(tmp_path / "two", count=2, seed=1, checkpoints=CHECKPOINTS, devices=2)
    assert (tally.kills, tally.redone, tally.owed, tally.left) == (2, set(), [], [])
    assert tally.obligations == CHECKPOINTS * (3 + 7)  # verified, exported, evaluated, and seven tasks
    swept = RunLayout(tmp_path / "two" / "swept")
    assert all(swept.evaluator_log(number).is_file() for number in (0, 1))

    alone = lay_run(tmp_path / "one", CHECKPOINTS)
    subprocess.run(command(alone), check=True, capture_output=True)
    assert rows(alone) == rows(swept.root)
