"""The trainer as processes of this host, under their supervisor: all ranks, or a node's share of them.

What enters is recipe, place and action; what leaves is an exit code. The output is appended to the run's logs. The lease's
descriptor (a joined node's: its seat's) is handed down, so the run stays held until the last rank is gone.
"""

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from k2.launch.command import USUAL_SUPERVISION, Meeting, Supervision, mark, trainer_command
from k2.launch.network import way_to
from k2.launch.process import end, find_device, launch
from k2.launch.strays import end_strays
from k2.recipe.place import Place
from k2.recipe.schema import Recipe
from k2.run.control import request_stop
from k2.run.layout import RunLayout
from k2.run.lease import Lease
from k2.run.nodes import Call, NodeSeat, call_nodes, dismiss_nodes
from k2.run.plan import Train


@dataclass(frozen=True)
class _Share:
    """What this host runs of a segment: as which node, on which call, its log, and the lock that its processes keep."""

    node: int
    call: Call | None
    log: Path
    lock: int


def node_log(layout: RunLayout, node: int, segment: Train) -> Path:
    """Where the output of that node's share of the segment goes."""
    return layout.node_log(node, segment.attempt) if segment.probe is None else layout.node_probe_log(node, segment.probe)


class Trainer:
    """One segment: the supervisor of torchrun of the ranks. As a context manager it never leaves a process behind."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        layout: RunLayout,
        attempt: int,
        grace_seconds: float,
        node: int = 0,
        call: Call | None = None,
    ) -> None:
        """`call`: where several nodes were called to it, of which `node` is this one."""
        self._process, self._layout, self._grace_seconds = process, layout, grace_seconds
        self._node, self.call = node, call
        self._code: int | None = None
        self.attempt = attempt

    @classmethod
    def start(
        cls, recipe: Recipe, place: Place, layout: RunLayout, action: Train, lease: Lease, supervision: Supervision = USUAL_SUPERVISION
    ) -> Self:
        """Launch the segment of the run whose lease is held; where the place has several nodes, the others are called to it."""
        log = layout.trainer_log(action.attempt) if action.probe is None else layout.probe_log(action.probe)
        call = call_nodes(layout, action) if place.nodes > 1 else None
        try:
            return cls._launch(recipe, place, layout, action, _Share(0, call, log, lease.descriptor), supervision)
        except BaseException:
            if call is not None:
                dismiss_nodes(layout, call)
            raise

    @classmethod
    def join(
        cls, recipe: Recipe, place: Place, layout: RunLayout, call: Call, seat: NodeSeat, supervision: Supervision = USUAL_SUPERVISION
    ) -> Self:
        """Launch this node's share of the segment that it was called to."""
        share = _Share(seat.node, call, node_log(layout, seat.node, call.segment), seat.descriptor)
        return cls._launch(recipe, place, layout, call.segment, share, supervision)

    @classmethod
    def _launch(cls, recipe: Recipe, place: Place, layout: RunLayout, action: Train, share: _Share, supervision: Supervision) -> Self:
        """Strays of a supervisor that was killed are ended first."""
        end_strays(mark("trainer", layout, share.node))
        meeting = None
        if share.call is not None and place.rendezvous is not None:
            meeting = Meeting(share.node, *way_to(place.rendezvous), share.call.id)
        command = trainer_command(
            recipe, place, layout, action, os.environ,
            device=find_device(place), supervision=supervision, lock=share.lock, meeting=meeting,
        )  # fmt: skip
        process = launch(command, share.log, (share.lock,))
        return cls(process, layout, action.attempt, supervision.grace_seconds, share.node, share.call)

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, 128 + n for a death by signal n; None while anything of the segment lives."""
        return self._settle(self._process.poll())

    def wait(self, timeout_seconds: float | None = None) -> int | None:
        """The exit code, or None when something still lives after the time."""
        try:
            return self._settle(self._process.wait(timeout_seconds))
        except subprocess.TimeoutExpired:
            return None

    def stop(self, reason: str, patience_seconds: float = 120.0) -> int:
        """Ask the ranks to finish their step, save and leave with 0; wait, and end what did not answer. The exit code."""
        request_stop(self._layout, self.attempt, reason)
        code = self.wait(patience_seconds)
        return self.terminate() if code is None else code

    def terminate(self) -> int:
        """SIGTERM to every process, SIGKILL after the grace. The exit code."""
        return self._end(signal.SIGTERM, self._grace_seconds)

    def kill(self) -> int:
        """SIGKILL to every process now: for ranks that hang. The exit code."""
        return self._end(signal.SIGQUIT, 0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.poll() is None:
            self.terminate()

    def _end(self, number: signal.Signals, grace_seconds: float) -> int:
        code = self._settle(end(self._process, number, grace_seconds))
        assert code is not None
        return code

    def _settle(self, code: int | None) -> int | None:
        """Once the supervisor has ended. A negative code: it was killed itself, and its ranks have nobody."""
        if code is None or self._code is not None:
            return self._code
        if code < 0:
            end_strays(mark("trainer", self._layout, self._node))
        if self._node == 0 and self.call is not None:
            dismiss_nodes(self._layout, self.call)
        self._code = code if code >= 0 else 128 - code
        return self._code
