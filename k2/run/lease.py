"""One writer a run. The lease is a flock on the run directory: death itself frees it, so nobody waits for a time-out.

The holder hands the open lock to the supervisor of its trainer (`Lease.descriptor`), so the run stays held while
a rank of a killed holder still lives. `lease.json` says who holds it, for the message of whoever comes second.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from k2.run.durable import write_durably
from k2.run.layout import RunLayout
from k2.run.receipt import now


class RunHeld(RuntimeError):
    """Another writer holds the run."""


@dataclass(frozen=True)
class Lease:
    """A held lease. `descriptor` may be inherited by the process that must keep the run held; `holder` is drawn anew by each."""

    descriptor: int
    holder: str

    def confirm(self, layout: RunLayout) -> None:
        """`RunHeld` where another has taken the run over: a shared disk may free the lock of a host that was cut off from it."""
        if _holder(layout).get("holder") != self.holder:
            raise RunHeld(f"run {layout.name!r} was taken over by {_described(_holder(layout))}, and is no longer driven here")


@contextmanager
def hold(layout: RunLayout, dying_holder_seconds: float = 30.0) -> Iterator[Lease]:
    """Hold the run. `RunHeld` at once when a living writer holds it; a dead holder's processes get a moment to end."""
    layout.root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(descriptor, layout, time.monotonic() + dying_holder_seconds)
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": now(), "holder": os.urandom(8).hex()}
        write_durably(layout.lease, json.dumps(holder).encode())
        yield Lease(descriptor, str(holder["holder"]))
    finally:
        os.close(descriptor)


def is_held(layout: RunLayout) -> bool:
    """Whether some process writes the run now."""
    if not layout.lock.exists():
        return False
    descriptor = os.open(layout.lock, os.O_RDWR | os.O_CLOEXEC)
    try:
        return not try_lock(descriptor, layout.lock)
    finally:
        os.close(descriptor)


def try_lock(descriptor: int, path: Path) -> bool:
    """Lock the open file at `path` for us alone, if nobody has. `OSError` that says so where its file system cannot."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path} cannot be locked ({error.strerror}): keep runs on a file system that can, across hosts too where several "
            "train together; for instance NFS 4, or Lustre mounted with -o flock",
        ) from error


def _lock(descriptor: int, layout: RunLayout, deadline: float) -> None:
    while not try_lock(descriptor, layout.lock):
        holder = _holder(layout)
        if _lives(holder) or time.monotonic() > deadline:
            raise RunHeld(
                f"run {layout.name!r} is held by {_described(holder)}; one writer at a time. Stop it with `k2 stop {layout.name}`, or wait."
            )
        time.sleep(0.1)


def _described(holder: dict[str, str | int]) -> str:
    return f"process {holder.get('pid', '?')} on {holder.get('host', '?')} since {holder.get('since', '?')}"


def _holder(layout: RunLayout) -> dict[str, str | int]:
    try:
        holder = json.loads(layout.lease.read_bytes())
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _lives(holder: dict[str, str | int]) -> bool:
    pid = holder.get("pid")
    if holder.get("host") != socket.gethostname() or not isinstance(pid, int):
        return False
    try:
        state = Path("/proc", str(pid), "stat").read_bytes().rpartition(b") ")[2][:1]
    except OSError:
        return False
    return state not in b"ZX"  # a dead process whose parent has not yet asked for it is dead
