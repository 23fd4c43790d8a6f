"""AdamW as K2 used it (Loshchilov and Hutter, arXiv 1711.05101), given to DeepSpeed as a callable.

torch's fused kernel runs on CPU and CUDA without compiling anything first; DeepSpeed's own need a compiler. The
learning rate is set at every step from the schedule, so the one here is never used.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from k2.recipe.schema import Optimizer


def adamw(settings: Optimizer) -> Callable[[Any], torch.optim.AdamW]:
    """What makes the optimizer once DeepSpeed knows the parameters."""

    def make(groups: Any) -> torch.optim.AdamW:
        return torch.optim.AdamW(
            groups, lr=0.0, betas=(settings.beta1, settings.beta2), eps=settings.eps, weight_decay=settings.weight_decay, fused=True
        )

    return make


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay, one-dimensional parameters do not (K2 §3.1). A rank without one kind has one group."""
    trained = [p for p in parameters if p.requires_grad]
    kinds = (
        ("decayed", [p for p in trained if p.ndim > 1], weight_decay),
        ("not_decayed", [p for p in trained if p.ndim <= 1], 0.0),
    )
    return [{"name": name, "params": params, "weight_decay": decay} for name, params, decay in kinds if params]
