"""A seeded sample of the kills and damages whose full counts the scripts beside give."""

from corrupt import corrupt
from kill_commit import kill_writers


def test_killed_writers_leave_no_torn_checkpoint(tmp_path):
    tally = kill_writers(tmp_path, count=6, seed=1)
    assert (tally.kills, tally.torn, tally.wrong, tally.lost) == (6, [], [], [])


def test_no_damage_loads_in_silence(tmp_path):
    seen, silent = corrupt(tmp_path, count=60, seed=1)
    assert silent == []
    assert sum(times for what, times in seen.items() if what.endswith(": seen")) >= 50
