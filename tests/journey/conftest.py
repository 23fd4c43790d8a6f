"""The fixtures of the journeys."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import LONGER, Machine
from prefect_service import server_processes


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A fresh folder; whatever still runs in it at the end is killed."""
    here = Machine(tmp_path)
    yield here
    here.end()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Machine]:
    """Another empty folder, where neither the texts nor the first one's runs are."""
    there = Machine(tmp_path / "elsewhere")
    there.root.mkdir()
    yield there
    there.end()


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A folder with the unbroken run `mini` in it, run once for all journeys; look, do not touch."""
    here = Machine(tmp_path_factory.mktemp("reference"))
    done = here.k2(*here.run_mini("mini", *LONGER))
    assert done.returncode == 0, done.stderr[-4000:]
    yield here
    here.end()


@pytest.fixture
def url(machine: Machine) -> Iterator[str]:
    """The address of a service: server, deployments, worker."""
    up = machine.k2("up", "--port", "0", "--json")
    assert up.returncode == 0, up.stderr
    yield json.loads(up.stdout)["url"]
    machine.k2("down")
    assert server_processes(machine) == []
