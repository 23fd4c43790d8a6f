"""What saving beside the training costs it: `checkpoint_stall.py [--ranks 1|2] [--hidden 512] [--rounds 5]`.

A model of 100 MB of weights (300 MB of state) trains on CPU, one thread a rank. Rounds without a save, with one saved beside the
steps, and with one that the training waits for are taken in turn, so that a slow minute of the machine meets all three. What a save
costs is the time of its round less that of a round without: the stall and every slowed step are in it. The processor time of the
training thread says the same on a machine that others use too, but for a core that the writing takes away.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch.distributed as dist

from k2.checkpoint.commit import Commit
from k2.checkpoint.saving import Order, Saver
from k2.recipe.load import load_recipe
from k2.recipe.place import Place
from k2.recipe.schema import Recipe, Stage
from k2.run.receipt import Receipt, now
from k2.train.engine import Engine, connect
from k2.train.step import train_step

MINI = str(Path(__file__).parents[1] / "tests" / "mini.toml")
GOAL = 0.05  # of a save that is waited for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, choices=(1, 2), default=1, help="with 2 on two cores no core is left for the writing")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8, help="samples of 32 tokens a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="of a round: long enough that the save has ended")
    parser.add_argument("--folder", type=Path, help="where to save (default: the system's folder for temporary files)")
    asked = parser.parse_args()
    if "RANK" in os.environ:
        measure(asked)
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(asked.ranks)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "K2_STALL_FOLDER": folder}
        sys.exit(subprocess.run([*launcher, __file__, *sys.argv[1:]], env=environment, check=False).returncode)


def measure(asked: argparse.Namespace) -> None:
    ffn = asked.hidden * 11 // 4
    recipe = load_recipe(MINI, (
        f"model.hidden={asked.hidden}", f"model.ffn={ffn}", f"model.layers={asked.layers}", "model.heads=8",
        f"layout.pipeline={asked.ranks}", f"stages.stage1.batch_samples={asked.batch}", "stages.stage1.chunks=200",
    ))  # fmt: skip
    stage = recipe.stage("stage1")
    connect(recipe, Place(device="cpu"))
    rounds = Rounds(recipe, stage, asked.steps, Path(os.environ["K2_STALL_FOLDER"]))
    rounds.none()
    rounds.waited_for()  # the first of everything is slower
    times: dict[str, list[float]] = {"none": [], "beside": [], "waited_for": []}
    worked: dict[str, list[float]] = {name: [] for name in times}
    for _ in range(asked.rounds):
        for name, seconds in times.items():
            seconds.append(getattr(rounds, name)())
            worked[name].append(rounds.thread_seconds)
    if dist.get_rank() == 0:
        report(asked, times, worked, rounds)
    dist.destroy_process_group()


class Rounds:
    """Rounds of steps on one engine, each followed by a barrier. `stalls` holds what the training thread waited in each save beside."""

    def __init__(self, recipe: Recipe, stage: Stage, num_steps: int, folder: Path) -> None:
        self.engine, self.recipe, self.stage = Engine(recipe, stage), recipe, stage
        self.saver, self.num_steps, self.folder = Saver(dist.get_rank(), dist.get_world_size()), num_steps, folder
        self.step, self.waited, self.stalls = 0, 0.0, list[float]()
        self.engine.before_update(self._before_update)
        self.bytes, self.thread_seconds = 0, 0.0

    def none(self) -> float:
        return self._timed(lambda: None)

    def beside(self) -> float:
        self.waited = 0.0
        took = self._timed(self._begin)
        self.stalls.append(self.waited)
        return took

    def waited_for(self) -> float:
        return self._timed(lambda: (self._begin(), self.saver.settle()))

    def _timed(self, save: Callable[[], object]) -> float:
        dist.barrier()
        began, worked = time.perf_counter(), time.thread_time()
        save()
        for _ in range(self.num_steps):
            self.step += 1
            train_step(self.engine, self.recipe, self.stage, self.step, self._read)
        self.saver.settle()
        took = time.perf_counter() - began
        self.thread_seconds = time.thread_time() - worked
        dist.barrier()
        if dist.get_rank() == 0:
            for path in self.folder.iterdir():
                self.bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                shutil.rmtree(path)
        os.sync()  # what is left to the disk is not the next round's
        return took

    def _begin(self) -> None:
        began = time.perf_counter()
        receipt = Receipt(kind="checkpoint", name="saved", recipe="r", made_at=now(), facts={"step": self.step})
        commit = Commit(self.folder / f"ckpt_{self.step}", 1, dist.get_world_size())
        self.saver.begin(Order(commit, receipt, {}, lambda: None, lambda: True), self.engine.state())
        self.waited += time.perf_counter() - began

    def _before_update(self) -> None:
        began = time.perf_counter()
        self.saver.before_update()
        self.waited += time.perf_counter() - began

    def _read(self, step: int) -> np.ndarray:
        shape = (self.stage.batch_samples, self.stage.context)
        return np.random.default_rng(step).integers(3, 400, shape).astype(np.uint16)


def report(asked: argparse.Namespace, times: dict[str, list[float]], worked: dict[str, list[float]], rounds: Rounds) -> None:
    """One JSON document, in milliseconds: of each kind the quickest round, the one that the machine disturbed least; all beside it."""
    none, waited_for, saved_beside = (min(times[name]) for name in ("none", "waited_for", "beside"))
    synchronous, beside = waited_for - none, saved_beside - none
    stall = statistics.median(rounds.stalls)
    thread = statistics.median(worked["beside"]) - statistics.median(worked["none"])
    found = {
        "ranks": asked.ranks,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "weights_mb": round(rounds.bytes / 3e6, 1),
        "state_mb": round(rounds.bytes / 1e6, 1),
        "step_ms": round(1000 * none / asked.steps, 1),
        "synchronous_ms": round(1000 * synchronous, 1),
        "stall_ms": round(1000 * stall, 1),
        "slowed_steps_ms": round(1000 * (beside - stall), 1),
        "training_thread_cpu_ms": round(1000 * thread, 1),
        "cost_of_synchronous": round(beside / synchronous, 4),
        "stall_of_synchronous": round(stall / synchronous, 4),
        "goal": GOAL,
        "rounds_ms": {name: [round(1000 * s) for s in seconds] for name, seconds in times.items()},
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
