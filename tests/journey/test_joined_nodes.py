"""Nodes come and go on one machine, over its loopback: a spare takes a seat over, ranks die before they have met the others."""

import json
import os
import signal
import socket
import subprocess

import pytest
from machine import LONGER, MINI, Machine, is_rank, wait_until

from k2.run.ledger import AttemptEnded, read_facts

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def seated(machine: Machine) -> int:
    return int(json.loads(machine.layout("mini").node(1).read_text())["pid"])


def ranks_of_node_1(machine: Machine) -> list[int]:
    return [pid for pid in machine.processes("trainer1", "mini") if is_rank(pid)]


def test_a_spare_takes_over_and_ranks_that_never_met_the_others_end_the_attempt(machine: Machine, reference: Machine) -> None:
    place = machine.root / "two_nodes.toml"
    place.write_text(machine.place.read_text() + f'device = "cpu"\nnodes = 2\nrendezvous = "127.0.0.1:{free_port()}"\n')
    joined: dict[int, subprocess.Popen[str]] = {}
    for _ in range(2):
        process = machine.start("join", "mini", "--node", "1")
        joined[process.pid] = process
    driver = machine.start("run", str(MINI), "--run", "mini", "--place", str(place), *LONGER)
    machine.wait_for_step("mini", "stage1", 15)

    told_to_end = joined.pop(seated(machine))
    told_to_end.terminate()  # all ranks save and end, and the spare answers the next call
    told_to_end.communicate(timeout=60)
    assert told_to_end.returncode == 130
    wait_until(lambda: ranks_of_node_1(machine) != [], 60)
    os.kill(ranks_of_node_1(machine)[0], signal.SIGKILL)  # as it starts: nobody has a connection to it that could break

    _, said = driver.communicate(timeout=240)
    assert driver.returncode == 0, said[-4000:]
    (spare,) = joined.values()
    spare.communicate(timeout=60)
    assert spare.returncode == 0
    assert machine.losses("mini") == reference.losses("mini")
    assert machine.status("mini")["state"] == "done"
    assert machine.processes("trainer1", "mini") == []
    ended = [fact.outcome for fact in read_facts(machine.layout("mini").ledger) if isinstance(fact, AttemptEnded)]
    assert ended == ["stopped", "crashed", "completed", "completed"]
