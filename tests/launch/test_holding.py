"""The run stays held until the last process of its last writer is gone, and is then free at once."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from launch_rig import Rig, lives

from k2.run.layout import RunLayout
from k2.run.lease import RunHeld, hold, is_held

CONTENDER = """
import sys
from pathlib import Path
from k2.run.layout import RunLayout
from k2.run.lease import RunHeld, hold
for line in sys.stdin:
    try:
        with hold(RunLayout(Path(line.strip())), dying_holder_seconds=10):
            print("holds", flush=True)
            sys.stdin.readline()
    except RunHeld:
        print("refused", flush=True)
        sys.stdin.readline()
    print("over", flush=True)
"""


def test_a_living_rank_keeps_the_run_held(rig: Rig) -> None:
    driver = rig.drive("deaf")
    driver.kill()
    driver.wait()
    while rig.alive:
        assert is_held(rig.layout) or not rig.alive
    rig.until(lambda: not is_held(rig.layout), seconds=2)


def test_a_launcher_without_supervisor_keeps_the_run_held(rig: Rig) -> None:
    driver = rig.drive("deaf")
    assert driver.stdout is not None
    supervisor = int(driver.stdout.readline())
    os.kill(supervisor, signal.SIGKILL)
    driver.wait(10)
    assert is_held(rig.layout)
    os.kill(rig.launcher, signal.SIGKILL)
    rig.until(lambda: not is_held(rig.layout), seconds=5)


def test_who_comes_next_waits_for_a_dying_holder(rig: Rig) -> None:
    driver = rig.drive("deaf")
    driver.kill()
    driver.wait()
    assert rig.alive
    with hold(rig.layout, dying_holder_seconds=10):
        assert not rig.alive


def test_a_holder_whose_parent_does_not_reap_it_is_dead_all_the_same(rig: Rig) -> None:
    driver = rig.drive("deaf")
    driver.kill()
    rig.until(lambda: not lives(driver.pid))
    with hold(rig.layout, dying_holder_seconds=10):
        assert not rig.alive
    driver.wait()


def test_who_comes_next_is_refused_while_the_holder_lives(rig: Rig) -> None:
    driver = rig.drive()
    with pytest.raises(RunHeld), hold(rig.layout):
        pass
    driver.kill()
    driver.wait()
    rig.until(lambda: not rig.alive)


def test_of_two_who_come_at_once_exactly_one_holds(tmp_path: Path) -> None:
    contenders = [
        subprocess.Popen([sys.executable, "-c", CONTENDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for race in range(20):
        layout = RunLayout(tmp_path / f"run_{race}")
        assert sorted(_ask_both(contenders, str(layout.root))) == ["holds\n", "refused\n"], f"race {race}"
        assert is_held(layout)
        assert _ask_both(contenders, "end") == ["over\n", "over\n"]
        assert not is_held(layout)
    for contender in contenders:
        contender.communicate()


def _ask_both(contenders: list["subprocess.Popen[str]"], line: str) -> list[str]:
    """Say the line to all at the same moment; what each answers."""
    barrier, said = threading.Barrier(len(contenders)), ["" for _ in contenders]

    def ask(lane: int, contender: "subprocess.Popen[str]") -> None:
        assert contender.stdin is not None and contender.stdout is not None
        barrier.wait(20)
        contender.stdin.write(f"{line}\n")
        contender.stdin.flush()
        said[lane] = contender.stdout.readline()

    threads = [threading.Thread(target=ask, args=pair) for pair in enumerate(contenders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return said
