"""The other hosts of a run, as its driver sees them."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows.loop import pursue
from flows.nodes import Nodes
from flows.run import Run
from k2.launch.network import Unreachable
from k2.recipe.load import load_recipe
from k2.recipe.place import Place
from k2.run.control import read_stop_request, request_stop
from k2.run.layout import RunLayout
from k2.run.nodes import take_seat
from k2.run.opening import create_or_open

TWO = Place(device="cpu", nodes=2, rendezvous="127.0.0.1:29500")
RECIPE = load_recipe(str(Path(__file__).parents[1] / "mini.toml"))


def nobody() -> None:
    return None


@pytest.fixture
def run(tmp_path: Path) -> Run:
    layout = RunLayout(tmp_path / "mini")
    create_or_open(layout, RECIPE, TWO)
    return Run(RECIPE, TWO, layout, None, None, None, lambda _line: None)  # type: ignore[arg-type]


def test_a_run_that_is_driven_elsewhere_is_refused_before_anything_is_done(run: Run) -> None:
    with pytest.raises(Unreachable, match=r"the run is driven where it points to|cannot be reached"):
        pursue(replace(run, place=Place(device="cpu", nodes=2, rendezvous="192.0.2.7:29500")), None)  # type: ignore[arg-type]


def test_a_stop_that_is_asked_for_ends_the_waiting(run: Run) -> None:
    assert not Nodes(run).gather(lambda: "paused")
    request = read_stop_request(run.layout)
    assert request is not None
    assert request.reason == "paused"


def test_a_stop_that_was_asked_for_before_the_launch_is_heeded(run: Run) -> None:
    request_stop(run.layout, 0, "user")  # while the checkpoint was verified, say
    assert not Nodes(replace(run, place=Place())).gather(nobody)


def test_a_node_that_somebody_else_took_over_is_lost_to_the_launch(run: Run) -> None:
    nodes = Nodes(run)
    with take_seat(run.layout, 1, nobody) as seat:

        def sign() -> None:
            seat.give_sign()

        assert nodes.gather(sign)
        assert nodes.lost() is None
    with take_seat(run.layout, 1, nobody) as other:
        while (lost := nodes.lost()) is None:
            other.give_sign()
    assert lost.startswith("node 1 (")
    assert "has taken its place" in lost
