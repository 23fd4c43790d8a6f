"""Journeys through the command line, as a user takes them: real processes, real ranks, a run directory to look at."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from k2.recipe.load import load_recipe
from k2.run.layout import RunLayout
from k2.run.ledger import read_facts
from k2.run.records import accepted_records

TESTS = Path(__file__).parents[1]
MINI = TESTS / "mini.toml"
LONGER = ("--set", "stages.stage1.steps_per_chunk=40", "--set", "checkpoints.rescue_every_steps=10")
PARITY_NATS = 2e-6  # fp32 losses of one layout and another, over a whole run: measured 1e-6 at most
K2 = str(Path(sys.executable).parent / "k2")


@dataclass
class Machine:
    """A folder with runs in it, and the `k2` command in it."""

    root: Path
    children: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def place(self) -> Path:
        path = self.root / "place.toml"
        path.write_text(f'data_dir = "{TESTS / "corpus"}"\nwandb_mode = "disabled"\n')
        return path

    def layout(self, run: str) -> RunLayout:
        return RunLayout(self.runs / run)

    def environment(self, **more: str) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        return clean | {"K2_RUNS_DIR": str(self.runs), "PREFECT_HOME": str(self.root / "prefect")} | more

    def k2(self, *arguments: str, timeout: float = 240, **environment: str) -> subprocess.CompletedProcess[str]:
        """One command, to its end."""
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def start(self, *arguments: str, inside: tuple[str, ...] = (), **environment: str) -> subprocess.Popen[str]:
        """One command, left running; `inside` is the command that runs it, where one does."""
        process = subprocess.Popen(
            [*inside, K2, *arguments],
            cwd=self.root,
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (a shell's background job ignores it)
        )
        self.children.append(process)
        return process

    def run_mini(self, name: str, *more: str) -> tuple[str, ...]:
        """The arguments that run the tests' recipe under that name."""
        return ("run", str(MINI), "--run", name, "--place", str(self.place), *more)

    def status(self, run: str) -> dict[str, object]:
        done = self.k2("status", run, "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, object] = json.loads(done.stdout)
        return found

    def losses(self, run: str) -> dict[tuple[str, int], str]:
        """The accepted lineage: the loss of every step that counts, as a hex float."""
        layout = self.layout(run)
        facts, recipe = read_facts(layout.ledger), load_recipe(str(layout.recipe))
        return {(r.stage, r.step): r.loss.hex() for stage in recipe.stages for r in accepted_records(layout, facts, stage.name)}

    def stop_at(self, name: str, step: int, *run: str) -> None:
        """Start the run by these arguments and stop it, once stage 1 has come so far, as a user does."""
        driver = self.start(*run)
        self.wait_for_step(name, "stage1", step)
        stopped = self.k2("stop", name)
        _, err = driver.communicate(timeout=60)
        assert (stopped.returncode, driver.returncode) == (0, 3), err[-4000:]

    def wait_for_step(self, run: str, stage: str, step: int, seconds: float = 120) -> None:
        """Until the trainer has written that step (or a later one)."""
        folder = self.layout(run).metrics_folder(stage)
        wait_until(lambda: any(f'"step": {step},' in path.read_text() for path in folder.glob("attempt_*.jsonl")), seconds)

    def processes(self, role: str, run: str) -> list[int]:
        """The living processes of that role of the run, read from their environment."""
        mark = f"K2_PROCESS={role}:{self.layout(run).root.resolve()}".encode()
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if mark in read_or_empty(f"/proc/{pid}/environ")]

    def ranks(self, run: str) -> list[int]:
        return [pid for pid in self.processes("trainer", run) if b"k2.train\0" in read_or_empty(f"/proc/{pid}/cmdline") and is_rank(pid)]

    def end(self) -> None:
        for child in self.children:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def largest_difference(losses: dict[tuple[str, int], str], others: dict[tuple[str, int], str]) -> float:
    """In nats, over all steps of `losses`."""
    return max(abs(float.fromhex(loss) - float.fromhex(others[step])) for step, loss in losses.items())


def is_rank(pid: int) -> bool:
    return b"\0LOCAL_RANK=" in b"\0" + read_or_empty(f"/proc/{pid}/environ") and b"torch.distributed.run" not in read_or_empty(
        f"/proc/{pid}/cmdline"
    )


def read_or_empty(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"did not come within {seconds} s"
        time.sleep(0.02)
