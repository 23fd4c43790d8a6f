"""Processes of a run that nobody stands over any more, found by the mark in their environment, and their end.

A stray can only be left when a supervisor itself was killed (by hand, or for memory) before its ranks were. Call
`end_strays` while holding the run's lease: a living supervisor keeps the lease, so what carries the mark is stray.
"""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from k2.launch.command import MARK


def strays(mark: str) -> list[int]:
    """Every process whose environment carries the mark, except this one."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0") and folder.name != str(os.getpid()):
                found.append(int(folder.name))
    return found


def end_strays(mark: str, patience_seconds: float = 10.0) -> list[int]:
    """SIGKILL them until none is left; what was found. `RuntimeError` names those that cannot be killed."""
    first = left = strays(mark)
    deadline = time.monotonic() + patience_seconds
    while left:
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {left} of {mark} do not end on SIGKILL (a device or a file system holds them); reboot or wait")
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
        left = strays(mark)
    return first
