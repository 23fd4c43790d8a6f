"""What saving beside the training costs it: `checkpoint_stall.py [--ranks 1|2] [--hidden 512] [--rounds 40]`.

A model of 100 MB of weights (300 MB of state) trains on CPU, one thread a rank. Rounds without a save and with one saved beside the
steps are taken in pairs, each first in every other one, so that a slow minute of the machine meets both; now and then one is saved that
the training waits for. What a save costs is the time of its round less that of the other of its pair: the stall and every slowed
step are in it. Single rounds differ by more than a save costs, so the middle of all pairs is said with its 95 % interval.

Linux says how long the training thread stood ready while another one had its core. On a machine that others use too, `own` times
leave that out: they hold what the thread computed and all that it was blocked by (the copy, the interpreter's lock, a page), but not
a core that the writing takes away, of which there is none as long as a core is left for it. Compare `cost_of_synchronous`, by
the clock, where the machine was quiet, and `own_cost_of_synchronous` anywhere.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

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
EVERY = 8  # pairs a save that is waited for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, choices=(1, 2), default=1, help="with 2 on two cores no core is left for the writing")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8, help="samples of 32 tokens a step")
    parser.add_argument("--rounds", type=int, default=40, help="pairs of rounds")
    parser.add_argument("--steps", type=int, default=6, help="of a round: enough that the save has ended (`too_short_ms`)")
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
    taken: dict[str, list[Taken]] = {"none": [], "beside": []}
    for number in range(asked.rounds):
        if number % EVERY == 0:
            rounds.waited_for()
        for name in ("none", "beside")[:: -1 if number % 2 else 1]:
            taken[name].append(getattr(rounds, name)())
    if dist.get_rank() == 0:
        report(asked, taken, rounds)
    dist.destroy_process_group()


class Taken(NamedTuple):
    """The training thread's seconds: by the clock, computing, and without those that it stood ready while its core was another's."""

    clock: float
    computed: float
    own: float

    @staticmethod
    def now() -> "Taken":
        clock, (ran, queued, _) = time.perf_counter(), map(int, Path("/proc/thread-self/schedstat").read_text().split())
        return Taken(clock, ran / 1e9, clock - queued / 1e9)

    def less(self, other: "Taken") -> "Taken":
        return Taken(*(mine - its for mine, its in zip(self, other, strict=True)))


class Rounds:
    """Rounds of steps on one engine, each followed by a barrier.

    `stalls` holds what the training thread waited in each save beside, `settlings` what it waited at the round's end for one that had
    not ended: a round that is too short, which training up to the next checkpoint is not.
    """

    def __init__(self, recipe: Recipe, stage: Stage, num_steps: int, folder: Path) -> None:
        self.engine, self.recipe, self.stage = Engine(recipe, stage), recipe, stage
        self.saver, self.num_steps, self.folder = Saver(dist.get_rank(), dist.get_world_size()), num_steps, folder
        self.step, self.waited, self.stalls = 0, 0.0, list[float]()
        self.engine.before_update(self._before_update)
        self.bytes, self.settling, self.settlings, self.saves = 0, 0.0, list[float](), list[float]()

    def none(self) -> Taken:
        return self._timed(lambda: None)

    def beside(self) -> Taken:
        self.waited = 0.0
        took = self._timed(self._begin)
        self.stalls.append(self.waited)
        self.settlings.append(self.settling)
        return took

    def waited_for(self) -> Taken:
        return self._timed(self._save_and_wait)

    def _timed(self, save: Callable[[], object]) -> Taken:
        dist.barrier()
        began = Taken.now()
        save()
        for _ in range(self.num_steps):
            self.step += 1
            train_step(self.engine, self.recipe, self.stage, self.step, self._read)
        trained = time.perf_counter()
        self.saver.settle()
        took = Taken.now().less(began)
        self.settling = time.perf_counter() - trained
        dist.barrier()
        if dist.get_rank() == 0:
            for path in self.folder.iterdir():
                self.bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                shutil.rmtree(path)
        os.sync()  # what is left to the disk is not the next round's
        return took

    def _save_and_wait(self) -> None:
        began = time.perf_counter()
        self._begin()
        self.saver.settle()
        self.saves.append(time.perf_counter() - began)

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


def report(asked: argparse.Namespace, taken: dict[str, list[Taken]], rounds: Rounds) -> None:
    """One JSON document, in milliseconds. What is shared out are the middles, of the pairs and of the saves that were waited for."""
    pairs = [beside.less(none) for none, beside in zip(taken["none"], taken["beside"], strict=True)]
    clock, computed, own = (sorted(kind) for kind in zip(*pairs, strict=True))
    beside = Taken(*map(statistics.median, (clock, computed, own)))
    synchronous, stall = statistics.median(rounds.saves), statistics.median(rounds.stalls)
    found = {
        "ranks": asked.ranks,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "weights_mb": round(rounds.bytes / 3e6, 1),
        "state_mb": round(rounds.bytes / 1e6, 1),
        "step_ms": round(1000 * min(t.own for t in taken["none"]) / asked.steps, 1),
        "synchronous_ms": round(1000 * synchronous, 1),
        "quickest_synchronous_ms": round(1000 * min(rounds.saves), 1),
        "all_synchronous_ms": [round(1000 * seconds) for seconds in rounds.saves],
        "stall_ms": round(1000 * stall, 1),
        "too_short_ms": [round(1000 * seconds) for seconds in rounds.settlings],
        "cost_ms": round(1000 * beside.clock, 1),
        "cost_ms_between": [round(1000 * seconds, 1) for seconds in interval(clock)],
        "own_cost_ms": round(1000 * beside.own, 1),
        "own_cost_ms_between": [round(1000 * seconds, 1) for seconds in interval(own)],
        "computed_more_ms": round(1000 * beside.computed, 1),
        "cost_of_synchronous": round(beside.clock / synchronous, 4),
        "own_cost_of_synchronous": round(beside.own / synchronous, 4),
        "goal": GOAL,
        "own_ms": {name: [round(1000 * t.own) for t in rounds_taken] for name, rounds_taken in taken.items()},
    }
    print(json.dumps(found, indent=1))


def interval(ordered: list[float]) -> tuple[float, float]:
    """The 95 % interval of the median, whatever the distribution: so many places to both sides of the middle."""
    half, count = 0.98 * math.sqrt(len(ordered)), len(ordered)
    return ordered[max(0, math.floor(count / 2 - half))], ordered[min(count - 1, math.ceil(count / 2 + half))]


if __name__ == "__main__":
    main()
