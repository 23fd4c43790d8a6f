"""A host that trains along: it takes its seat, gives signs of life, and joins every launch that the driver calls it to.

What enters is a run directory that the driver's host shares, and which node this host is; it knows neither flows nor policy. It
leaves when the run is done, or when it is told to: its ranks then have all of them save and end, and the driver waits for another.
"""

import time
from collections.abc import Callable

from k2.launch.local import Trainer, node_log
from k2.recipe.load import RecipeError
from k2.recipe.place import Place
from k2.run.holdings import read_holdings
from k2.run.layout import RunLayout
from k2.run.ledger import read_facts
from k2.run.nodes import SIGN_SECONDS, Call, NodeSeat, read_call, take_seat
from k2.run.opening import open_run
from k2.run.plan import Done, next_action
from k2.run.receipt import find_receipt

Say = Callable[[str], None]
_LOOK_SECONDS = 0.25
_LEAVE_SECONDS = 20.0  # for ranks whose driver's share has ended to end by themselves
_DONE_SECONDS = 5.0  # between two looks whether the run is done


def find_run(layout: RunLayout, node: int, say: Say, patience_seconds: float = 600.0) -> None:
    """Wait for the run to be created: hosts are often started together. `RecipeError` for a node that its place does not have."""
    deadline = time.monotonic() + patience_seconds
    if not layout.place.is_file():
        say(f"there is no run at {layout.root} yet: waits {patience_seconds:.0f} s for node 0 to create it there")
    while not layout.place.is_file() and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    _, place = open_run(layout)
    _check_node(layout, place, node)


def _check_node(layout: RunLayout, place: Place, node: int) -> None:
    if place.nodes == 1:
        raise RecipeError(f"run {layout.name!r} trains on one host: its place has nodes = 1; set nodes and rendezvous there first")
    if not 1 <= node < place.nodes:
        raise RecipeError(
            f"--node {node} is none of the nodes that join {layout.name!r}: its place has nodes = {place.nodes}, so they are 1 to "
            f"{place.nodes - 1}; node 0 drives the run by `k2 run` or `k2 resume`"
        )


def join_run(layout: RunLayout, node: int, say: Say) -> None:
    """Train along as that node until the run is done."""
    with take_seat(layout, node, _patience(layout, node, say)) as seat:
        say(f"node {node} of {layout.name} is here and waits to be called")
        _Joined(layout, seat, say).to_the_end()


def _patience(layout: RunLayout, node: int, say: Say) -> Callable[[], None]:
    """What a spare does while another host has the seat."""
    said = False

    def wait() -> None:
        nonlocal said
        if not said:
            say(f"another host is node {node} of {layout.name}; this one takes its place should it end")
        said = True
        time.sleep(_LOOK_SECONDS)

    return wait


class _Joined:
    """A node in its seat."""

    def __init__(self, layout: RunLayout, seat: NodeSeat, say: Say) -> None:
        self._layout, self._seat, self._say = layout, seat, say
        before = read_call(layout)  # was made to whoever sat here before
        self._answered = None if before is None else before.id
        self._signed = self._looked = -float("inf")
        self._over_since: float | None = None  # when the driver was seen to be done with what is trained here
        self._judged_bytes = -1

    def to_the_end(self) -> None:
        while not self._is_done():
            call = read_call(self._layout)
            if call is not None and not call.over and call.id != self._answered:
                self._answered = call.id
                self._train(call)
            self._live()

    def _train(self, call: Call) -> None:
        """This node's share of one launch, until it has ended."""
        recipe, place = open_run(self._layout)
        _check_node(self._layout, place, self._seat.node)  # the run may have been given another place meanwhile
        segment = call.segment
        self._say(f"attempt {segment.attempt}: trains {segment.stage} from step {segment.first_step}")
        self._over_since = None
        with Trainer.join(recipe, place, self._layout, call, self._seat) as trainer:
            while (code := trainer.poll()) is None:
                self._live()
                if self._is_called_off(call):
                    code = trainer.kill()
                    break
        if code:
            self._seat.failed = call.id
        log = f", see {node_log(self._layout, self._seat.node, segment)}" if code else ""
        self._say(f"attempt {segment.attempt} ended here with exit code {code}{log}")

    def _is_called_off(self, call: Call) -> bool:
        """Whether the driver is further on, or was done with the call so long ago that ranks which still live never will be."""
        newest = read_call(self._layout)
        if newest is None or newest == call:
            return False
        if newest.id != call.id:
            return True
        self._over_since = self._over_since or time.monotonic()
        return time.monotonic() > self._over_since + _LEAVE_SECONDS

    def _live(self) -> None:
        if time.monotonic() >= self._signed + SIGN_SECONDS:
            self._seat.give_sign()
            self._signed = time.monotonic()
        time.sleep(_LOOK_SECONDS)

    def _is_done(self) -> bool:
        """Asked every few seconds, but of every checkpoint only after a new fact, or the release: sixty hosts wait at one disk."""
        if time.monotonic() < self._looked + _DONE_SECONDS:
            return False
        self._looked = time.monotonic()
        judged, self._judged_bytes = self._judged_bytes, self._layout.ledger.stat().st_size
        if judged == self._judged_bytes and find_receipt(self._layout.release) is None:
            return False
        recipe, _ = open_run(self._layout)
        facts = read_facts(self._layout.ledger)
        return isinstance(next_action(recipe, facts, read_holdings(recipe, self._layout, facts)), Done)
