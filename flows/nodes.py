"""The other hosts of a run, as the driver sees them: waited for before a launch, looked after while it lives.

On one host there is nobody to wait for, and nobody is ever lost.
"""

import time
from collections.abc import Callable

from flows.run import Run
from k2.launch.local import Trainer
from k2.launch.pulse import Pulse
from k2.run.control import read_stop_request, request_stop
from k2.run.ledger import last_attempt
from k2.run.nodes import SIGN_SECONDS, NodeWatch, Sign

_LOOK_SECONDS = 0.25


class Nodes:
    """The nodes that take part in one launch."""

    def __init__(self, run: Run) -> None:
        self._run, self._watch = run, NodeWatch(run.place, run.layout)
        self._looked = self._began = time.monotonic()
        self._told: tuple[int, ...] = ()
        self._gathered: dict[int, Sign] = {}

    def gather(self, asked: Callable[[], str | None]) -> bool:
        """Wait until every node has given a sign of life. False when a stop was asked for meanwhile, or just before: the request stands.

        It names an attempt that has ended; the next one would not heed it.
        """
        while missing := self._missing():
            if (reason := asked()) is not None and read_stop_request(self._run.layout) is None:
                request_stop(self._run.layout, last_attempt(self._run.facts()), reason)
            if read_stop_request(self._run.layout) is not None:
                return False
            self._tell(missing)
            time.sleep(_LOOK_SECONDS)
        self._gathered = self._watch.newest
        return read_stop_request(self._run.layout) is None

    def lost(self) -> str | None:
        """Which of the hosts that gathered is lost, in words for a person; None while all live. Call it as often as you like."""
        gone = dict.fromkeys(self._missing(), f"gave no sign for {self._run.place.node_silence_seconds:g} s")
        for node, sign in self._watch.newest.items():
            if sign.holder != self._gathered[node].holder:
                gone[node] = f"ended, and {sign.host} has taken its place"
        return self._named(gone)

    def why_hopeless(self, trainer: Trainer, pulse: Pulse) -> str | None:
        """Why a living trainer must be killed: it hangs, a host is lost, or one lives without its ranks, which the others may wait for."""
        if pulse.stalled:
            return f"no step for {pulse.silent_seconds:.0f} s: the trainer hangs and is killed"
        failed = () if trainer.call is None else self._watch.failed(trainer.call)
        gone = self.lost() or self._named(dict.fromkeys(failed, "lives, but its ranks have ended"))
        return None if gone is None else f"{gone}: the attempt is ended, the other ranks cannot go on"

    def _named(self, how: dict[int, str]) -> str | None:
        return ", ".join(f"node {node} ({self._gathered[node].host}) {words}" for node, words in how.items()) or None

    def _missing(self) -> tuple[int, ...]:
        if time.monotonic() >= self._looked + SIGN_SECONDS / 2:
            self._looked = time.monotonic()
            self._watch.look()
        return self._watch.missing

    def _tell(self, missing: tuple[int, ...]) -> None:
        """Each time that others are missed, once those that are here had the time to show it."""
        if missing != self._told and time.monotonic() > self._began + 3 * SIGN_SECONDS:
            self._told = missing
            name, several = self._run.layout.name, len(missing) > 1
            who = f"nodes {', '.join(map(str, missing))}" if several else f"node {missing[0]}"
            self._run.say(
                f"waits for {who} of {self._run.place.nodes}: on {'those hosts' if several else 'that host'}, `k2 join {name} --node N`"
            )
