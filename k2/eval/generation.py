"""Generations from a Hugging Face causal model and token ids: greedy, or sampled so that the same seeds draw the same.

Shapes: B rows, T positions, V vocabulary rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

Ids = tuple[int, ...]
Choose = Callable[[Tensor], Tensor]  # logits_BV -> ids_B1


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn: from the likeliest tokens that together have `top_p` of the probability, at this temperature."""

    temperature: float
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature <= 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"temperature {self.temperature} and top_p {self.top_p} cannot be sampled with: the temperature must be above 0 and top_p "
                "above 0 and at most 1; for greedy answers set do_sample to false"
            )


def greedily(logits_BV: Tensor) -> Tensor:
    """The likeliest token of each row."""
    return logits_BV.argmax(-1, keepdim=True)


def sampled(sampling: Sampling, seeds: Sequence[int]) -> Choose:
    """A choice with a generator for each row, so that a row draws the same whatever stands beside it."""
    generators = [Random(seed) for seed in seeds]  # noqa: S311 (a draw, not a secret)

    def choose(logits_BV: Tensor) -> Tensor:
        probabilities_BV, ids_BV = (logits_BV.float() / sampling.temperature).softmax(-1).sort(-1, descending=True)
        before_BV = probabilities_BV.cumsum(-1) - probabilities_BV
        summed_BV = (probabilities_BV * (before_BV < sampling.top_p)).cumsum(-1)
        drawn_B = torch.tensor([generator.random() for generator in generators], device=logits_BV.device)
        places_B = (summed_BV <= (drawn_B * summed_BV[:, -1])[:, None]).sum(-1).clamp(max=logits_BV.shape[-1] - 1)
        return ids_BV.gather(1, places_B[:, None])

    return choose


@torch.inference_mode()
def generate(
    model: Any, prompts: Sequence[Ids], max_new: int, finished: Callable[[list[int]], bool], choose: Choose = greedily
) -> list[list[int]]:
    """The tokens after each prompt, until `finished` says so of a row or `max_new` are made."""
    width = max(len(prompt) for prompt in prompts)
    ids_BT = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=model.device)
    mask_BT = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)
    made: list[list[int]] = [[] for _ in prompts]
    running, cache = set(range(len(prompts))), None
    for _ in range(max_new):
        output = model(
            input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions_BT, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        ids_BT, cache = choose(output.logits[:, -1]), output.past_key_values
        for row, new in enumerate(ids_BT[:, 0].tolist()):
            if row in running:
                made[row].append(new)
        running -= {row for row in running if finished(made[row])}
        if not running:
            break
        mask_BT = torch.cat((mask_BT, torch.ones_like(ids_BT)), dim=-1)
        positions_BT = positions_BT[:, -1:] + 1
    return made
