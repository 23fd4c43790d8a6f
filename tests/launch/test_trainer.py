"""The handle of a segment."""

import json
import os
import signal
import time

import pytest
from launch_rig import Rig

from k2.launch.local import Trainer


def test_a_stop_is_asked_for_by_file_and_then_by_signal(rig: Rig) -> None:
    trainer = Trainer(rig.supervise("--grace", "20"), rig.layout, attempt=4, grace_seconds=20)
    trainer.stop("the user asked", patience_seconds=0.2)
    assert json.loads(rig.layout.stop_request.read_bytes()) == {"attempt": 4, "reason": "the user asked"}
    assert (rig.folder / "saved").exists()
    assert not rig.alive


def test_poll_and_wait_tell_the_code_when_all_is_over(rig: Rig) -> None:
    trainer = Trainer(rig.supervise(), rig.layout, attempt=1, grace_seconds=20)
    assert trainer.poll() is None
    assert trainer.wait(0.1) is None
    os.kill(rig.launcher, signal.SIGKILL)
    assert trainer.wait(10) == 137
    assert trainer.poll() == 137


def test_hanging_ranks_are_killed(rig: Rig) -> None:
    trainer = Trainer(rig.supervise("--grace", "600"), rig.layout, attempt=1, grace_seconds=600)
    for rank in rig.ranks:
        os.kill(rank, signal.SIGSTOP)
    begun = time.monotonic()
    assert trainer.kill() == 137
    assert time.monotonic() - begun < 10
    assert not rig.alive


def test_leaving_the_block_by_an_error_leaves_no_process(rig: Rig) -> None:
    with pytest.raises(KeyboardInterrupt), Trainer(rig.supervise("--grace", "0.5", manner="deaf"), rig.layout, 1, grace_seconds=1):
        raise KeyboardInterrupt
    assert not rig.alive


def test_a_killed_supervisor_leaves_no_rank(rig: Rig) -> None:
    trainer = Trainer(rig.supervise(manner="deaf"), rig.layout, attempt=1, grace_seconds=1)
    os.kill(trainer.pid, signal.SIGKILL)
    assert trainer.wait(10) == 137
    assert not rig.alive
