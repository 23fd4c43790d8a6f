"""A run directory of the tests' recipe, and the trainer started on it as the launcher starts it: by torchrun, in its own session."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from k2.data.build import build
from k2.recipe.load import load_recipe
from k2.recipe.place import Place
from k2.recipe.schema import Recipe
from k2.run.holdings import held_checkpoints
from k2.run.layout import RunLayout
from k2.run.ledger import AttemptStarted, append_facts, read_facts
from k2.run.opening import create_or_open
from k2.run.records import StepRecord, accepted_records, read_records

TESTS = Path(__file__).parents[1]
MINI = str(TESTS / "mini.toml")
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class TrainerRun:
    recipe: Recipe
    layout: RunLayout

    def start(self, stage: str = "stage1", first_step: int = 1, checkpoint: str | None = None) -> "Started":
        """Append the attempt to the ledger and launch it."""
        attempt = 1 + sum(isinstance(fact, AttemptStarted) for fact in read_facts(self.layout.ledger))
        append_facts(self.layout.ledger, AttemptStarted(attempt=attempt, stage=stage, checkpoint=checkpoint, first_step=first_step))
        argv = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            str(self.recipe.layout.ranks),
            "-m",
            "k2.train",
        ]
        argv += [str(self.layout.root), "--stage", stage, "--attempt", str(attempt), "--first-step", str(first_step)]
        argv += ["--checkpoint", checkpoint] if checkpoint else []
        environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        process = subprocess.Popen(
            argv, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
        )
        return Started(process, attempt)

    def train(self, stage: str = "stage1", first_step: int = 1, checkpoint: str | None = None) -> "Started":
        """Start and wait; the trainer must end well."""
        started = self.start(stage, first_step, checkpoint)
        code, errors = started.wait()
        assert code == 0, errors
        return started

    def resume(self, stage: str = "stage1") -> "Started":
        """Go on from the newest checkpoint of the stage, as the driver would."""
        newest = [c for c in held_checkpoints(self.recipe, self.layout) if c.stage == stage][-1]
        return self.train(stage, newest.step + 1, newest.name)

    def records(self, attempt: int, stage: str = "stage1") -> list[StepRecord]:
        return list(read_records(self.layout.metrics(stage, attempt)))

    def lineage(self, stage: str = "stage1") -> list[tuple[int, str, str]]:
        """The accepted lineage: step, and loss and gradient norm as hex floats."""
        accepted = accepted_records(self.layout, read_facts(self.layout.ledger), stage)
        return [(record.step, record.loss.hex(), record.grad_norm.hex()) for record in accepted]

    def checkpoints(self) -> list[str]:
        """Everything visible among the checkpoints, committed or not."""
        return sorted(path.name for path in self.layout.checkpoints.iterdir() if not path.name.startswith("."))

    def trained_to(self, attempt: int, step: int, stage: str = "stage1") -> Callable[[], bool]:
        return lambda: any(record.step >= step for record in self.records(attempt, stage))


@dataclass(frozen=True)
class Started:
    process: subprocess.Popen[str]
    attempt: int

    def wait(self, seconds: float = PATIENCE_SECONDS) -> tuple[int, str]:
        """Exit code and standard error. A trainer that does not end is killed with its group, and that is a failure."""
        try:
            _, errors = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise
        return self.process.returncode, errors

    def ranks(self) -> list[int]:
        """Process ids of the ranks, in the order of their start."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(child) for child in children if b"k2.train" in Path(f"/proc/{child}/cmdline").read_bytes()]

    def kill_group(self) -> None:
        """SIGKILL to torchrun and, as each rank has a session of its own, to every rank."""
        ranks = self.ranks()
        for process in (self.process.pid, *ranks):
            os.kill(process, signal.SIGKILL)
        self.process.communicate()
        wait_until(lambda: not any(alive(rank) for rank in ranks))


def new_run(root: Path, *overrides: str) -> TrainerRun:
    """A run directory with its data prepared."""
    recipe, layout, place = load_recipe(MINI, overrides), RunLayout(root), Place(device="cpu", data_dir=str(TESTS / "corpus"))
    create_or_open(layout, recipe, place)
    build(recipe, place, layout, lambda text: None)
    return TrainerRun(recipe, layout)


def alive(process: int) -> bool:
    """Whether the process runs; one that ended and was not yet reaped does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> float:
    """Wait for the condition; the seconds it took. `TimeoutError` when it does not come true."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.01)
    return time.monotonic() - began
