"""One training step: where to begin reading. A learning rate, a batch, and what became of them.

The samples of a step are the same for every layout: data rank `d` takes the d-th contiguous share of them and cuts it
into micro-batches in order. The state of the data is the step's number and nothing else.

Shapes: B samples of a micro-batch, T positions of the context.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from k2.model.llama import next_tokens
from k2.recipe.schema import Recipe, Stage
from k2.run.tempering import UNTEMPERED, Temper
from k2.train.engine import Engine, MicroBatch
from k2.train.faults import disturbed_rows, strikes
from k2.train.schedule import fault_factor, learning_rate

Samples = NDArray[np.uint16]  # one step's rows: [batch_samples, context]


@dataclass(frozen=True)
class StepResult:
    """What one step did. `updated` is false when the optimizer refused a non-finite gradient."""

    loss: float
    grad_norm: float
    lr: float
    seconds: float
    updated: bool


def train_step(
    engine: Engine, recipe: Recipe, stage: Stage, step: int, read: Callable[[int], Samples], temper: Temper = UNTEMPERED
) -> StepResult:
    """Train the samples of `step`. `temper` multiplies the learning rate and the clip."""
    began = time.perf_counter()
    lr = learning_rate(stage.schedule, step, stage.steps) * fault_factor(recipe.faults, stage.name, step) * temper.learning_rate
    refused = engine.skipped_updates
    engine.set_learning_rate(lr)
    engine.set_clip(recipe.optimizer.clip * temper.clip)
    engine.spoil_gradients(strikes(recipe, "nan_gradients", stage, step))
    loss, grad_norm = engine.train_batch(micro_batches(engine, recipe, stage, step, read))
    return StepResult(loss, grad_norm, lr, time.perf_counter() - began, engine.skipped_updates == refused)


def micro_batches(engine: Engine, recipe: Recipe, stage: Stage, step: int, read: Callable[[int], Samples]) -> Iterator[MicroBatch]:
    """This data rank's share of the step. Nothing is read on ranks that hold neither the first nor the last layer."""
    share = stage.batch_samples // recipe.layout.data
    own = torch.from_numpy(disturbed_rows(recipe, stage, step, read(step))[engine.data_rank * share :][:share].astype(np.int64)).to(
        engine.device
    )
    for tokens_BT in torch.split(own, stage.micro_batch_samples):
        yield tokens_BT, next_tokens(tokens_BT)
