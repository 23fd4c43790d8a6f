"""Tokens a second of the trainer and of a plain torch loop: the same model, samples, precision and threads, one rank on this CPU.

    python benchmarks/training_speed.py [--threads N] [--rounds N]

Both train in this process, turn by turn, so that what else runs on the machine hits both alike; the medians of their steps
are compared, by the clock and by the processor's time, which others on the machine disturb less. The plain loop is what one would
write by hand: autograd, torch's fused AdamW and its clipping.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils import clip_grad_norm_

from k2.model.count import parameters
from k2.model.layers import build_plain
from k2.model.llama import mean_loss, next_tokens
from k2.recipe.load import load_recipe
from k2.recipe.place import Place
from k2.recipe.schema import Recipe, Stage
from k2.train.engine import Engine, connect
from k2.train.optimizer import parameter_groups
from k2.train.schedule import learning_rate
from k2.train.step import train_step

MINI = str(Path(__file__).parents[1] / "tests" / "mini.toml")
SIZES = {
    "a step of half a second and more": (4, 256, 704, 4, 2048, 256, 8, 4),
    "a step of 50 ms": (2, 128, 352, 4, 1024, 96, 8, 4),
}
WARMUP_STEPS = 2  # they allocate
CHUNKS = 20  # of eight steps: as many as a measurement may want
Read = Callable[[int], NDArray[np.uint16]]


class Seconds(NamedTuple):
    """Of a step: by the clock, and of the processor."""

    clock: float
    processor: float

    @staticmethod
    def now() -> "Seconds":
        return Seconds(time.perf_counter(), time.process_time())

    def since(self, began: "Seconds") -> "Seconds":
        return Seconds(self.clock - began.clock, self.processor - began.processor)


def median(steps: list[Seconds]) -> Seconds:
    return Seconds(*map(statistics.median, zip(*steps[WARMUP_STEPS:], strict=True)))


@dataclass(frozen=True)
class Result:
    size: str
    parameters: int
    tokens_per_step: int
    ours: Seconds
    plain: Seconds
    loss_difference: float

    def line(self) -> str:
        ours, plain = (self.tokens_per_step / seconds.clock for seconds in (self.ours, self.plain))
        return (
            f"{self.size:<34}{self.parameters:>12,}{1000 * self.plain.clock:>10.0f} ms{ours:>14,.0f}{plain:>14,.0f}"
            f"{self.plain.clock / self.ours.clock:>9.3f}{self.plain.processor / self.ours.processor:>11.3f}{self.loss_difference:>12.1e}"
        )


def recipe_of(size: str) -> Recipe:
    layers, hidden, ffn, heads, rows, context, batch, micro = SIZES[size]
    model = f"{{layers={layers}, hidden={hidden}, ffn={ffn}, heads={heads}, vocab_rows={rows}}}"
    stage = {"context": context, "batch_samples": batch, "micro_batch_samples": micro, "chunks": CHUNKS}
    return load_recipe(MINI, (f"model={model}", "layout.pipeline=1", *(f"stages.stage1.{key}={value}" for key, value in stage.items())))


def samples(recipe: Recipe, stage: Stage) -> Read:
    rows = np.random.default_rng(0).integers(0, recipe.model.vocab_rows, (stage.batch_samples, stage.context), dtype=np.uint16)
    return lambda step: np.roll(rows, step, axis=1)


def ours(recipe: Recipe, stage: Stage, read: Read) -> Callable[[int], float]:
    engine = Engine(recipe, stage)
    return lambda step: train_step(engine, recipe, stage, step, read).loss


def plain(recipe: Recipe, stage: Stage, read: Read) -> Callable[[int], float]:
    model, settings = build_plain(recipe.model, stage.rope_base, recipe.seed), recipe.optimizer
    groups = parameter_groups(model.parameters(), settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(settings.beta1, settings.beta2), eps=settings.eps, fused=True)

    def train(step: int) -> float:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(stage.schedule, step, stage.steps)
        micro_batches = torch.from_numpy(read(step).astype(np.int64)).split(stage.micro_batch_samples)
        losses = []
        for tokens_BT in micro_batches:
            loss = mean_loss(model(tokens_BT), next_tokens(tokens_BT))
            (loss / len(micro_batches)).backward()
            losses.append(loss.detach())
        clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad()
        return float(torch.stack(losses).mean())

    return train


def compare(size: str, threads: int, rounds: int) -> Result:
    recipe = recipe_of(size)
    stage = recipe.stage("stage1")
    connect(recipe, Place(device="cpu", threads_per_rank=threads))
    read = samples(recipe, stage)
    loops = (ours(recipe, stage, read), plain(recipe, stage, read))
    taken: tuple[list[Seconds], list[Seconds]] = ([], [])
    differences = []
    for step in range(1, rounds + WARMUP_STEPS + 1):
        losses = []
        for loop, steps in zip(loops, taken, strict=True):
            began = Seconds.now()
            losses.append(loop(step))
            steps.append(Seconds.now().since(began))
        differences.append(abs(losses[0] - losses[1]))
    return Result(size, parameters(recipe.model), stage.tokens_per_step, median(taken[0]), median(taken[1]), max(differences))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args()
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    print(f"fp32, one rank, {asked.threads} thread(s), torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    print(f"medians of {asked.rounds} steps, turn by turn")
    print(f"{'':<34}{'parameters':>12}{'plain step':>13}{'ours tok/s':>14}{'plain tok/s':>14}{'ratio':>9}{'cpu ratio':>11}{'|d loss|':>12}")
    for size in SIZES:
        print(compare(size, asked.threads, asked.rounds).line(), flush=True)


if __name__ == "__main__":
    main()
