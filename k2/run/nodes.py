"""Hosts that train one run together: what the driver calls them to, and the signs of life of those that have joined.

They share the run directory and nothing else. The driver, node 0, writes a call before each launch and ends it afterwards; every other
node holds the lock of its file and writes signs of life into it. Signs are counted by changes, seen by one's own monotonic clock,
so that no two hosts need to agree on the time.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from k2.recipe.place import Place
from k2.run.durable import write_durably
from k2.run.layout import RunLayout
from k2.run.lease import try_lock
from k2.run.plan import Train

SIGN_SECONDS = 1.0
_FAILED_SECONDS = 10.0  # for the ranks of the others to notice, and to say so themselves, that some are gone


class Call(BaseModel):
    """One launch that all nodes take part in. `over`: it has ended for the driver."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[0-9a-f]{16}$", description="of this launch alone: an attempt's number may come twice, for a probe")
    segment: Train
    over: bool = False


def call_nodes(layout: RunLayout, segment: Train) -> Call:
    """Call every node to this launch. Hold the run's lease."""
    call = Call(id=os.urandom(8).hex(), segment=segment)
    _write_call(layout, call)
    return call


def dismiss_nodes(layout: RunLayout, call: Call) -> None:
    """Say that the launch has ended."""
    _write_call(layout, call.model_copy(update={"over": True}))


def read_call(layout: RunLayout) -> Call | None:
    """The newest call, if there is a readable one."""
    try:
        return Call.model_validate_json(layout.call.read_bytes())
    except (OSError, ValidationError):
        return None


def _write_call(layout: RunLayout, call: Call) -> None:
    write_durably(layout.call, call.model_dump_json().encode())


class Sign(BaseModel):
    """A sign of life. `holder` is drawn anew whenever a seat is taken; `failed` is the last call in which the node's ranks ended badly."""

    model_config = ConfigDict(frozen=True)

    host: str
    pid: int
    holder: str
    number: int
    failed: str = ""


@dataclass
class NodeSeat:
    """A node's place among the others, held by this process and by whoever inherits the descriptor: its trainer's supervisor."""

    node: int
    descriptor: int
    holder: str
    signs: int = 0
    failed: str = ""

    def give_sign(self) -> None:
        """Show that this host lives. In place: a renamed file may be seen late over a network."""
        self.signs += 1
        sign = Sign(host=socket.gethostname()[:64], pid=os.getpid(), holder=self.holder, number=self.signs, failed=self.failed)
        os.pwrite(self.descriptor, sign.model_dump_json().encode().ljust(256) + b"\n", 0)
        os.fsync(self.descriptor)


@contextmanager
def take_seat(layout: RunLayout, node: int, waits: Callable[[], None]) -> Iterator[NodeSeat]:
    """Hold the node's seat. While another host holds it `waits` is called: whoever comes second is its spare."""
    path = layout.node(node)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not try_lock(descriptor, path):
            waits()
        yield NodeSeat(node, descriptor, os.urandom(8).hex())
    finally:
        os.close(descriptor)


class NodeWatch:
    """The driver's look at the other nodes. Call `look` every second or so. `clock` is monotonic: a wall clock may jump.

    Time in which nobody looked is no silence: where the shared disk stood still for minutes, the others could give no sign either.
    """

    def __init__(self, place: Place, layout: RunLayout, clock: Callable[[], float] = time.monotonic) -> None:
        self._silence_seconds, self._clock = place.node_silence_seconds, clock
        self._files = {node: layout.node(node) for node in range(1, place.nodes)}
        self._signs = {node: _read_sign(path) for node, path in self._files.items()}
        self._looked, self._watched_seconds = clock(), 0.0
        self._heard: dict[int, float] = {}  # after how many of these a sign changed: what stood there before says nothing
        self._failed: dict[int, float] = {}  # the same, of the word that its ranks ended badly

    def look(self) -> None:
        """Note who has given a sign since the last look."""
        found = {node: _read_sign(path) for node, path in self._files.items()}
        before, self._looked = self._looked, self._clock()
        self._watched_seconds += min(self._looked - before, 2 * SIGN_SECONDS)
        for node, sign in found.items():
            last = self._signs[node]
            if sign is None or sign == last:
                continue
            if last is None or sign.failed != last.failed:
                self._failed[node] = self._watched_seconds
            self._signs[node], self._heard[node] = sign, self._watched_seconds

    @property
    def missing(self) -> tuple[int, ...]:
        """Those that have given no sign, or none for too long."""
        oldest = self._watched_seconds - self._silence_seconds
        return tuple(node for node in self._files if self._heard.get(node, oldest) <= oldest)

    def failed(self, call: Call) -> tuple[int, ...]:
        """Those that live, but whose ranks have ended badly in this call, a while ago: what the others wait for may never come."""
        before = self._watched_seconds - _FAILED_SECONDS
        return tuple(node for node, sign in self.newest.items() if sign.failed == call.id and self._failed.get(node, before) <= before)

    @property
    def newest(self) -> dict[int, Sign]:
        """The last sign of each node that ever gave one."""
        return {node: sign for node, sign in self._signs.items() if sign is not None}


def _read_sign(path: Path) -> Sign | None:
    try:
        return Sign.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):  # not there, or half written
        return None
