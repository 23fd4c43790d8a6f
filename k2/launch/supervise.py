"""The process that stands over a trainer: whatever happens to its parent or its child, no descendant outlives it.

`python -m k2.launch.supervise [options] -- COMMAND...` becomes a child subreaper, so that ranks which opened their
own sessions (torchrun's do) still come back to it. It ends all descendants when its standard input ends (the parent
died), on SIGTERM (with grace), on SIGQUIT (at once), and when COMMAND ends. It leaves with COMMAND's exit code, or
128 + n when signal n ended it. Standard library only: it must start in a moment and have nothing to fail in.
"""

import argparse
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_KILL = signal.SIGQUIT
_LEFTOVER_SECONDS = 2.0  # for what a cleanly ended child leaves behind, such as a metrics uploader


@dataclass(frozen=True)
class Orders:
    """The command line, parsed. A descriptor of None means: the supervisor's own (output) or nothing (input)."""

    grace_seconds: float
    orphan_grace_seconds: float
    outlives_parent: bool
    is_launcher: bool
    held: tuple[int, ...]
    stdin: int | None
    stdout: int | None
    command: tuple[str, ...]


def parse_orders(arguments: list[str]) -> Orders:
    parser = argparse.ArgumentParser(prog="k2.launch.supervise", description="run a command so that none of its descendants outlives it")
    parser.add_argument("--grace", type=float, default=30.0, help="seconds between SIGTERM and SIGKILL when a stop is asked for")
    parser.add_argument("--orphan-grace", type=float, default=5.0, help="the same when the parent has died")
    parser.add_argument("--outlive-parent", action="store_true", help="for a service: go on when the parent ends")
    parser.add_argument("--launcher", action="store_true", help="the command ends by itself, and well, when what it has started does")
    parser.add_argument("--lock-fd", type=int, action="append", default=[], help="inherited lock to hold as long as the command lives")
    parser.add_argument("--stdin-fd", type=int, help="becomes the command's standard input")
    parser.add_argument("--stdout-fd", type=int, help="becomes the command's standard output")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args(arguments)
    return Orders(
        grace_seconds=given.grace,
        orphan_grace_seconds=given.orphan_grace,
        outlives_parent=given.outlive_parent,
        is_launcher=given.launcher,
        held=tuple(given.lock_fd),
        stdin=given.stdin_fd,
        stdout=given.stdout_fd,
        command=tuple(given.command),
    )


def descendants(ancestor: int) -> list[int]:
    """Every living process below `ancestor`. Zombies are left out: nothing can be done to them but reap them."""
    children: dict[int, list[int]] = {}
    for pid, parent in _processes():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    queue = [ancestor]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def _processes() -> Iterable[tuple[int, int]]:
    """(pid, parent) of every process that is no zombie."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            state, parent = Path("/proc", name, "stat").read_bytes().rpartition(b") ")[2].split(b" ", 2)[:2]
        except OSError:
            continue
        if state not in (b"Z", b"X"):
            yield int(name), int(parent)


class Supervisor:
    """One command and everything that it starts. `run` returns when nothing of it is left."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (*_STOPS, _KILL, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # delivered through the wake-up pipe
        self._watches_parent = not orders.outlives_parent
        self._code: int | None = None
        self._deadline: float | None = None
        self._child = self._start()

    def run(self) -> int:
        while self._reap():
            self._wait()
            if self._deadline is not None and time.monotonic() >= self._deadline:
                _signal(descendants(os.getpid()), signal.SIGKILL)
        code = self._code if self._code is not None else 1
        return code if code >= 0 else 128 - code

    def _start(self) -> subprocess.Popen[bytes]:
        """The command. It keeps the lock too, and is told to stop should even its supervisor be killed."""
        orders = self._orders
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        child = subprocess.Popen(
            orders.command,
            stdin=subprocess.DEVNULL if orders.stdin is None else orders.stdin,
            stdout=orders.stdout,
            pass_fds=orders.held,
            preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),  # noqa: PLW1509 (single thread)
        )
        for descriptor in (orders.stdin, orders.stdout):
            if descriptor is not None:
                os.close(descriptor)  # so that the other end sees the command's end, not ours
        return child

    def _reap(self) -> bool:
        """Collect the dead. False when no child is left at all."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._child.pid:
                self._child_ended(os.waitstatus_to_exitcode(status))

    def _child_ended(self, code: int) -> None:
        """What is left is SIGKILLed at once after a failure (a rank without its launcher cannot be trusted)."""
        self._code = code
        self._child.returncode = code
        self._stop(0.0 if code else _LEFTOVER_SECONDS)

    def _wait(self) -> None:
        """Until a child dies, a signal comes, the parent dies, or (while stopping) a tenth of a second has passed."""
        watched = [self._wake_read, 0] if self._watches_parent else [self._wake_read]
        ready, _, _ = select.select(watched, [], [], None if self._deadline is None else 0.1)
        if 0 in ready and not os.read(0, 4096):
            self._watches_parent = False
            self._stop(self._orders.orphan_grace_seconds)
        if self._wake_read in ready:
            numbers = os.read(self._wake_read, 4096)
            if _KILL in numbers:
                self._stop(0.0)
            elif any(number in _STOPS for number in numbers):
                self._stop(self._orders.grace_seconds)

    def _stop(self, grace_seconds: float) -> None:
        """Ask everything to end, and set when it is made to. A later stop may shorten the grace, never lengthen it.

        A launcher such as torchrun is not asked itself: it would cut its ranks' saving short and call it a failure.
        """
        deadline = time.monotonic() + grace_seconds
        if grace_seconds > 0 and self._deadline is None:
            below = [pid for pid in descendants(os.getpid()) if pid != self._child.pid]
            _signal(below if self._orders.is_launcher and below else [self._child.pid, *below], signal.SIGTERM)
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def main() -> int:
    return Supervisor(parse_orders(sys.argv[1:])).run()


if __name__ == "__main__":
    sys.exit(main())
