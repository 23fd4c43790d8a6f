"""An independent reference: the same model trained by one process with nothing but torch's autograd.

AdamW and clipping are written out here from their papers, so that an error in the trainer's is not repeated.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from k2.model.layers import PlainLlama, build_plain, weights_of
from k2.recipe.schema import END_OF_DOCUMENT, Optimizer, Recipe, Stage


@dataclass(frozen=True)
class Curve:
    losses: list[float]
    grad_norms: list[float]


@dataclass
class Moments:
    first: Tensor
    second: Tensor


@dataclass(frozen=True)
class Plain:
    """The curve, and by their names the weights and first moments that remain."""

    curve: Curve
    weights: dict[str, Tensor]
    first_moments: dict[str, Tensor]


def synthetic_samples(recipe: Recipe, stage: Stage) -> Callable[[int], NDArray[np.uint16]]:
    """Rows that a model can learn: counting with noise, from the step's number; in documents of eleven where the stage keeps to them."""

    def read(step: int) -> NDArray[np.uint16]:
        random = np.random.default_rng(step)
        start = random.integers(0, recipe.model.vocab_rows, size=(stage.batch_samples, 1))
        rows = start + np.arange(stage.context) * random.integers(1, 5, size=(stage.batch_samples, 1))
        noise = random.integers(0, recipe.model.vocab_rows, size=rows.shape)
        rows = np.where(random.random(rows.shape) < 0.1, noise, rows) % recipe.model.vocab_rows
        if stage.attention_span == "document":
            rows[:, 7::11] = END_OF_DOCUMENT
        return rows.astype(np.uint16)

    return read


def train_plain(
    recipe: Recipe, stage: Stage, rates: list[float], read: Callable[[int], NDArray[np.uint16]], refused_step: int | None = None
) -> Plain:
    """What len(rates) steps leave. In bf16 masters, moments and accumulated gradients are fp32.

    The gradient of `refused_step` is no number: there is no update, the moments do not count it, and the next step has its own rate.
    """
    model = build_plain(recipe.model, stage.rope_base, recipe.seed, stage.attention_span)
    if recipe.layout.precision == "bf16":
        model.bfloat16()
    masters = [p.detach().float().clone() for p in model.parameters()]
    moments = [Moments(torch.zeros_like(m), torch.zeros_like(m)) for m in masters]
    losses, norms, updates = [], [], 0
    for step, rate in enumerate(rates, start=1):
        loss, gradients = gradients_of(model, torch.from_numpy(read(step).astype(np.int64)), stage.micro_batch_samples)
        losses.append(loss)
        if step == refused_step:
            norms.append(math.inf)
            continue
        updates += 1
        norm = torch.sqrt(sum(((g.double() ** 2).sum() for g in gradients), start=torch.zeros((), dtype=torch.float64))).item()
        scale = min(1.0, recipe.optimizer.clip / (norm + 1e-6))
        for master, gradient, moment in zip(masters, gradients, moments, strict=True):
            adamw_step(master, gradient * scale, moment, recipe.optimizer, rate, updates)
        with torch.no_grad():
            for parameter, master in zip(model.parameters(), masters, strict=True):
                parameter.copy_(master)
        norms.append(norm)
    weights = weights_of(model, recipe.model)
    return Plain(Curve(losses, norms), weights, dict(zip(weights, (moment.first for moment in moments), strict=True)))


def gradients_of(model: PlainLlama, tokens: Tensor, micro_batch: int) -> tuple[float, list[Tensor]]:
    """The mean loss over the batch and its gradient, accumulated in fp32 over micro-batches."""
    parameters = list(model.parameters())
    total = [torch.zeros(p.shape) for p in parameters]
    loss_sum, parts = 0.0, torch.split(tokens, micro_batch)
    for part in parts:
        logits = model(part)[:, :-1].float()
        picked = logits.log_softmax(-1).gather(-1, part[:, 1:, None])
        loss = -picked.mean()
        for accumulated, gradient in zip(total, torch.autograd.grad(loss / len(parts), parameters), strict=True):
            accumulated.add_(gradient)
        loss_sum += loss.item() / len(parts)
    return loss_sum, total


def adamw_step(weight: Tensor, gradient: Tensor, moment: Moments, settings: Optimizer, rate: float, updates: int) -> None:
    """Loshchilov and Hutter, algorithm 2, with decay scaled by the rate."""
    moment.first = settings.beta1 * moment.first + (1 - settings.beta1) * gradient
    moment.second = settings.beta2 * moment.second + (1 - settings.beta2) * gradient**2
    first = moment.first / (1 - settings.beta1**updates)
    second = moment.second / (1 - settings.beta2**updates)
    decay = settings.weight_decay if weight.ndim > 1 else 0.0
    weight.mul_(1 - rate * decay).sub_(rate * first / (second.sqrt() + settings.eps))
