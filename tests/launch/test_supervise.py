"""Whatever is killed, nobody is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launch_rig import Rig

from k2.launch.command import Command, mark
from k2.launch.process import end, launch
from k2.launch.strays import end_strays, strays

SUPERVISE = (sys.executable, "-m", "k2.launch.supervise", "--grace", "1", "--")


@pytest.mark.parametrize(("command", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)])
def test_leaves_with_the_commands_code(command: str, code: int) -> None:
    with subprocess.Popen([*SUPERVISE, "sh", "-c", command], stdin=subprocess.PIPE) as process:
        assert process.wait(20) == code


def test_a_killed_parent_takes_everything_with_it(rig: Rig) -> None:
    driver = rig.drive("deaf")
    driver.kill()
    driver.wait()
    assert rig.until(lambda: not rig.alive and not strays(mark("trainer", rig.layout))) < 10


def test_a_killed_launcher_takes_its_ranks_with_it_at_once(rig: Rig) -> None:
    process = rig.supervise("--grace", "60", manner="deaf")
    os.kill(rig.launcher, signal.SIGKILL)
    assert rig.until(lambda: not rig.alive) < 10
    assert process.wait(10) == 137


def test_a_killed_rank_takes_the_others_with_it(rig: Rig) -> None:
    process = rig.supervise("--grace", "60", manner="deaf")
    os.kill(rig.ranks[0], signal.SIGKILL)
    assert process.wait(20) != 0
    assert not rig.alive


def test_asked_to_stop_the_ranks_may_save(rig: Rig) -> None:
    process = rig.supervise("--grace", "60", "--launcher")
    process.terminate()
    assert process.wait(20) == 0
    assert (rig.folder / "saved").exists()
    assert not rig.alive


def test_who_does_not_stop_is_killed_after_the_grace(rig: Rig) -> None:
    process = rig.supervise("--grace", "0.5", manner="deaf")
    process.terminate()
    process.wait(20)
    assert not rig.alive


def test_hanging_ranks_are_killed_at_once(rig: Rig) -> None:
    process = rig.supervise("--grace", "60")
    for pid in rig.ranks:
        os.kill(pid, signal.SIGSTOP)
    process.send_signal(signal.SIGQUIT)
    process.wait(10)
    assert not rig.alive


def test_a_stop_can_be_made_sooner(rig: Rig) -> None:
    process = rig.supervise("--grace", "600", manner="deaf")
    process.terminate()
    process.send_signal(signal.SIGQUIT)
    process.wait(10)
    assert not rig.alive


def test_strays_of_a_killed_supervisor_are_found_and_ended(rig: Rig) -> None:
    process = rig.supervise(manner="deaf")
    ranks = set(rig.pids_of("rank") + rig.pids_of("child"))
    process.kill()
    process.wait()
    assert set(end_strays(mark("trainer", rig.layout))) >= ranks
    assert not rig.alive


def test_strays_of_another_run_are_left_alone(rig: Rig) -> None:
    process = rig.supervise()
    assert end_strays(mark("trainer", rig.layout) + "2") == []
    assert len(rig.alive) == 5
    assert process.poll() is None


def test_a_kill_that_comes_while_the_supervisor_starts_is_not_lost(tmp_path: Path) -> None:
    """As under a shell that has put its job in the background: SIGQUIT is ignored until the supervisor takes it up."""
    ignored = signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    try:
        command = Command((sys.executable, "-m", "k2.launch.supervise", "--", "sleep", "600"), dict(os.environ))
        process = launch(command, tmp_path / "log")
        began = time.monotonic()
        end(process, signal.SIGQUIT, 0.0)
    finally:
        signal.signal(signal.SIGQUIT, ignored)
    assert time.monotonic() - began < 20
