"""Two hosts train one run together, one of them is lost, and the run goes on from the last checkpoint once another has joined."""

from collections.abc import Iterator

import pytest
from hosts import Host, two_hosts, why_not
from machine import LONGER, TESTS, Machine, wait_until

from k2.run.ledger import AttemptEnded, read_facts

pytestmark = pytest.mark.slow


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    if (reason := why_not()) is not None:
        pytest.skip(f"two network namespaces cannot be had here: {reason}")
    with two_hosts() as both:
        yield both


@pytest.fixture
def place(machine: Machine, hosts: tuple[Host, Host]) -> str:
    path = machine.root / "two_hosts.toml"
    path.write_text(
        f'data_dir = "{TESTS / "corpus"}"\nwandb_mode = "disabled"\n'
        f'device = "cpu"\nnodes = 2\nrendezvous = "{hosts[0].address}:29517"\nnode_silence_seconds = 10.0\n'
    )
    return str(path)


def ended(machine: Machine) -> list[AttemptEnded]:
    return [fact for fact in read_facts(machine.layout("mini").ledger) if isinstance(fact, AttemptEnded)]


def test_a_lost_host_is_replaced_and_the_losses_are_a_single_hosts(
    machine: Machine, reference: Machine, hosts: tuple[Host, Host], place: str
) -> None:
    first, second = hosts
    joined = machine.start("join", "mini", "--node", "1", inside=second.inside)  # before there is a run: hosts start together
    driver = machine.start("run", str(TESTS / "mini.toml"), "--run", "mini", "--place", place, *LONGER, inside=first.inside)
    machine.wait_for_step("mini", "stage1", 45)

    second.pull_the_cable()  # as when the power fails: the others hear nothing more, and no connection is closed
    joined.kill()
    joined.wait()
    wait_until(lambda: ended(machine) != [], 60)
    second.plug_in()
    replacement = machine.start("join", "mini", "--node", "1", inside=second.inside)

    _, said = driver.communicate(timeout=240)
    assert driver.returncode == 0, said[-4000:]
    _, words = replacement.communicate(timeout=60)
    assert replacement.returncode == 0, words
    assert machine.losses("mini") == reference.losses("mini")
    assert machine.status("mini")["state"] == "done"
    lost, *others = ended(machine)
    assert lost.outcome == "lost"
    assert lost.reason.startswith("node 1 (")
    assert [fact.outcome for fact in others] == ["completed", "completed"]
    assert "gave no sign for 10 s: the attempt is ended" in said
