"""Real processes to launch, and a look at which of them live."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from k2.launch.command import MARK, Command, mark
from k2.launch.process import launch
from k2.run.layout import RunLayout

STUBS = Path(__file__).parent / "stubs"


def lives(pid: int) -> bool:
    """A zombie does not live."""
    try:
        return b") Z " not in Path("/proc", str(pid), "stat").read_bytes()
    except OSError:
        return False


class Rig:
    """A run directory and the processes that stubs have started for it: each leaves a file with its pid."""

    def __init__(self, folder: Path) -> None:
        self.layout = RunLayout(folder / "run")
        self.folder = folder / "processes"
        self.folder.mkdir()

    def supervise(self, *options: str, manner: str = "polite", ranks: int = 2) -> subprocess.Popen[bytes]:
        """A supervised launcher, as soon as all its processes are there: itself, its ranks, and a child of each."""
        stub = (sys.executable, str(STUBS / "launcher.py"), str(self.folder), manner, str(ranks))
        supervisor = (sys.executable, "-m", "k2.launch.supervise", *options, "--", *stub)
        process = launch(Command(supervisor, {**os.environ, MARK: mark("trainer", self.layout)}), self.layout.trainer_log(1))
        self.until(lambda: len(self.pids) == 1 + 2 * ranks)
        return process

    def drive(self, manner: str = "polite") -> subprocess.Popen[str]:
        """A driver that holds the run and has launched two ranks."""
        command = [sys.executable, str(STUBS / "driver.py"), str(self.layout.root), str(self.folder), manner]
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.until(lambda: len(self.pids) == 5)
        return driver

    def pids_of(self, kind: str) -> list[int]:
        return [int(path.name.rpartition("_")[2]) for path in self.folder.glob(f"{kind}_*")]

    @property
    def pids(self) -> list[int]:
        return self.pids_of("*")

    @property
    def launcher(self) -> int:
        (pid,) = self.pids_of("launcher")
        return pid

    @property
    def ranks(self) -> list[int]:
        return self.pids_of("rank")

    @property
    def alive(self) -> list[int]:
        return [pid for pid in self.pids if lives(pid)]

    def until(self, condition: Callable[[], bool], seconds: float = 20.0) -> float:
        """Wait for the condition; how long it took."""
        begun = time.monotonic()
        while not condition():
            assert time.monotonic() - begun < seconds, f"not within {seconds} s; alive: {self.alive}"
            time.sleep(0.02)
        return time.monotonic() - begun
