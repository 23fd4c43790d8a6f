"""Whatever is killed, the run goes on, and its accepted losses are those of the unbroken run, bit for bit."""

import json
import os
import signal

import pytest
from machine import LONGER, MINI, Machine, wait_until

pytestmark = pytest.mark.slow


def assert_like_the_unbroken(machine: Machine, reference: Machine) -> None:
    assert machine.losses("mini") == reference.losses("mini")
    assert machine.status("mini")["state"] == "done"
    assert machine.processes("trainer", "mini") == []
    assert machine.processes("evaluator", "mini") == []


def test_a_killed_rank_is_relaunched_by_itself(machine: Machine, reference: Machine) -> None:
    driver = machine.start(*machine.run_mini("mini", *LONGER))
    machine.wait_for_step("mini", "stage1", 25)
    os.kill(machine.ranks("mini")[-1], signal.SIGKILL)
    _, err = driver.communicate(timeout=240)
    assert driver.returncode == 0, err[-4000:]
    assert machine.status("mini")["attempts"] == 3  # stage 1 twice, stage 2
    assert_like_the_unbroken(machine, reference)


def test_a_hanging_rank_is_killed_and_the_run_goes_on(machine: Machine, reference: Machine) -> None:
    impatient = machine.root / "impatient.toml"
    impatient.write_text(machine.place.read_text() + "hang_floor_seconds = 8.0\n")
    hangs = {"at": "step.begin", "rank": 1, "step": 25, "attempt": 1, "do": "SIGSTOP"}
    run = ("run", str(MINI), "--run", "mini", "--place", str(impatient), *LONGER)
    done = machine.k2(*run, K2_FAULTS=json.dumps([hangs]))
    assert done.returncode == 0, done.stderr[-4000:]
    assert "the trainer hangs and is killed" in done.stderr
    assert_like_the_unbroken(machine, reference)


def test_a_killed_trainer_group_is_relaunched_by_itself(machine: Machine, reference: Machine) -> None:
    driver = machine.start(*machine.run_mini("mini", *LONGER))
    machine.wait_for_step("mini", "stage1", 25)
    for pid in machine.processes("trainer", "mini"):
        os.kill(pid, signal.SIGKILL)
    _, err = driver.communicate(timeout=240)
    assert driver.returncode == 0, err[-4000:]
    assert_like_the_unbroken(machine, reference)


def test_a_killed_driver_leaves_nobody_and_is_resumed(machine: Machine, reference: Machine) -> None:
    driver = machine.start(*machine.run_mini("mini", *LONGER))
    machine.wait_for_step("mini", "stage1", 25)
    driver.kill()
    driver.wait()
    wait_until(lambda: machine.processes("trainer", "mini") == [], 15)
    resumed = machine.k2("resume", "mini")
    assert resumed.returncode == 0, resumed.stderr[-4000:]
    assert_like_the_unbroken(machine, reference)


def test_everything_killed_at_once_is_resumed(machine: Machine, reference: Machine) -> None:
    driver = machine.start(*machine.run_mini("mini", *LONGER))
    machine.wait_for_step("mini", "stage1", 85)
    for pid in [driver.pid, *machine.processes("trainer", "mini"), *machine.processes("evaluator", "mini")]:
        os.kill(pid, signal.SIGKILL)
    driver.wait()
    resumed = machine.k2("resume", "mini")
    assert resumed.returncode == 0, resumed.stderr[-4000:]
    assert_like_the_unbroken(machine, reference)


def test_an_interrupt_saves_and_is_resumed(machine: Machine, reference: Machine) -> None:
    driver = machine.start(*machine.run_mini("mini", *LONGER))
    machine.wait_for_step("mini", "stage1", 25)
    os.kill(driver.pid, signal.SIGINT)
    driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert machine.processes("trainer", "mini") == []
    resumed = machine.k2("resume", "mini")
    assert resumed.returncode == 0, resumed.stderr[-4000:]
    assert_like_the_unbroken(machine, reference)


def test_a_second_writer_is_refused(machine: Machine) -> None:
    driver = machine.start(*machine.run_mini("mini", *LONGER))
    machine.wait_for_step("mini", "stage1", 5)
    second = machine.k2("resume", "mini")
    assert second.returncode == 5
    assert f"held by process {driver.pid}" in second.stderr
