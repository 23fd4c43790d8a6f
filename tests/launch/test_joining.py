"""Who may join which run, and by which way. That hosts train together is shown by the journey."""

import socket
import threading
import time
from pathlib import Path

import pytest

from k2.launch.joining import find_run, join_run
from k2.launch.local import node_log
from k2.launch.network import Unreachable, check_driver, way_to
from k2.recipe.load import RecipeError, load_recipe
from k2.recipe.place import Place
from k2.run.layout import RunLayout
from k2.run.nodes import call_nodes
from k2.run.opening import NoSuchRun, create_or_open
from k2.run.plan import Train

RECIPE = load_recipe(str(Path(__file__).parents[1] / "mini.toml"))
TWO = Place(device="cpu", nodes=2, rendezvous="127.0.0.1:29500")


def run_at(root: Path, place: Place) -> RunLayout:
    layout = RunLayout(root / "mini")
    create_or_open(layout, RECIPE, place)
    return layout


def test_a_node_that_the_place_has_is_let_in(tmp_path: Path) -> None:
    find_run(run_at(tmp_path, TWO), 1, print)


@pytest.mark.parametrize(
    ("place", "node", "words"),
    [
        (Place(), 1, "its place has nodes = 1"),
        (TWO, 0, "node 0 drives the run"),
        (TWO, 2, "--node 2 is none of the nodes that join 'mini'.*they are 1 to 1"),
    ],
)
def test_another_is_refused(tmp_path: Path, place: Place, node: int, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        find_run(run_at(tmp_path, place), node, print)


def test_a_node_that_the_run_was_given_another_place_without_leaves(tmp_path: Path) -> None:
    layout = run_at(tmp_path, TWO)

    def change_and_call() -> None:
        while not (layout.node(1).is_file() and layout.node(1).read_bytes()):  # it sits, and looks for calls
            time.sleep(0.01)
        create_or_open(layout, RECIPE, Place())
        call_nodes(layout, Train("stage1", 1, None, 1))

    driver = threading.Thread(target=change_and_call)
    driver.start()
    with pytest.raises(RecipeError, match="its place has nodes = 1"):
        join_run(layout, 1, print)
    driver.join()


def test_a_probe_has_logs_of_its_own_on_every_node(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    probe, attempt = Train("stage1", 3, "ckpt_002", 17, 20, probe=1), Train("stage1", 3, "ckpt_002", 17)  # numbers are given once more
    assert node_log(layout, 1, probe) != node_log(layout, 1, attempt)


def test_a_run_that_is_not_there_is_waited_for_and_then_refused(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(NoSuchRun):
        find_run(RunLayout(tmp_path / "mini"), 1, said.append, patience_seconds=0.0)
    assert "waits" in said[0]


def test_ranks_that_nodes_cannot_share_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="2 ranks cannot be shared evenly by nodes = 3"):
        run_at(tmp_path, TWO.model_copy(update={"nodes": 3}))
    assert not (tmp_path / "mini").exists()


def test_the_way_to_this_host_is_its_loopback() -> None:
    assert way_to("127.0.0.1:29500") == ("127.0.0.1", "lo")
    check_driver(TWO)
    check_driver(Place())


def test_a_run_is_not_driven_from_another_host_than_the_rendezvous() -> None:
    with pytest.raises(Unreachable, match=r"rendezvous = '192\.0\.2\.7:29500'"):  # an address for documentation, which nobody has
        check_driver(Place(device="cpu", nodes=2, rendezvous="192.0.2.7:29500"))


def test_a_name_that_leads_to_the_loopback_is_none_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = socket.getaddrinfo
    debian = {"login1": "127.0.1.1"}  # as Debian writes a host's own name into its /etc/hosts
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: usual(debian.get(host, host), *rest, **more))
    with pytest.raises(Unreachable, match="leads to the loopback on this host"):
        check_driver(Place(device="cpu", nodes=2, rendezvous="login1:29500"))


def test_a_name_that_nobody_has_says_so() -> None:
    with pytest.raises(Unreachable, match="cannot be reached"):
        way_to("no-such-host.invalid:29500")
