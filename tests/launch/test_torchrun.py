"""The same with the real torchrun, which starts its ranks in sessions of their own."""

import os
import signal
import subprocess
import sys

import pytest
from launch_rig import STUBS, Rig

from k2.launch.command import MARK, Command, mark
from k2.launch.process import launch
from k2.launch.strays import strays

pytestmark = pytest.mark.slow

TORCHRUN = (
    *("-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"),
    *("--nproc-per-node", "2", "--max-restarts", "0", "--shutdown-timeout", "5"),
)


def start(rig: Rig, manner: str = "deaf") -> "subprocess.Popen[bytes]":
    supervisor = ("-m", "k2.launch.supervise", "--grace", "60", "--orphan-grace", "1", "--launcher", "--")
    rank = (str(STUBS / "rank.py"), str(rig.folder), manner)
    argv = (sys.executable, *supervisor, sys.executable, *TORCHRUN, *rank)
    process = launch(Command(argv, {**os.environ, MARK: mark("trainer", rig.layout)}), rig.layout.trainer_log(1))
    rig.until(lambda: len(rig.pids) == 4, seconds=90)
    return process


def torchrun_of(rig: Rig, supervisor: int) -> int:
    (pid,) = (pid for pid in strays(mark("trainer", rig.layout)) if pid not in (supervisor, *rig.pids))
    return pid


def test_killed_torchrun_leaves_no_rank(rig: Rig) -> None:
    process = start(rig)
    os.kill(torchrun_of(rig, process.pid), signal.SIGKILL)
    assert process.wait(10) == 137
    assert not rig.alive


def test_a_killed_rank_takes_all_with_it(rig: Rig) -> None:
    process = start(rig, "polite")
    os.kill(rig.ranks[0], signal.SIGKILL)
    assert process.wait(10) == 1
    assert not rig.alive


def test_a_dead_parent_leaves_no_rank(rig: Rig) -> None:
    process = start(rig)
    assert process.stdin is not None
    process.stdin.close()
    assert rig.until(lambda: not strays(mark("trainer", rig.layout))) < 10
    process.wait()


def test_a_stop_by_signal_ends_well_when_the_ranks_do(rig: Rig) -> None:
    process = start(rig, "polite")
    process.terminate()
    assert process.wait(20) == 0
    assert (rig.folder / "saved").exists()
    assert not rig.alive
