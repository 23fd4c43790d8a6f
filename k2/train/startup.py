"""What is looked at once an engine stands: settings of ours that DeepSpeed would drop without a word, each with a wrong training for it."""

from typing import Any

import torch

from k2.recipe.schema import Recipe
from k2.train.tensor import held_by_all


def assert_as_set(engine: Any, recipe: Recipe) -> None:
    """`AssertionError` says what DeepSpeed's engine does not do as the recipe and `deepspeed_json` want it."""
    layout = recipe.layout
    assert isinstance(engine.basic_optimizer, torch.optim.AdamW), (
        f"AdamW is torch's own, not {type(engine.basic_optimizer).__name__}: DeepSpeed's is compiled first"
    )
    assert engine.zero_optimization_stage() == layout.zero_stage, "below 1 the gradient's norm would leave out pipeline stages"
    assert engine.gradient_clipping() == recipe.optimizer.clip, "gradients would not be clipped"
    if layout.zero_stage > 1:
        return
    wanted = "BF16_Optimizer" if layout.precision == "bf16" else "DeepSpeedZeroOptimizer"
    assert type(engine.optimizer).__name__ == wanted, f"gradients would not accumulate in fp32: {type(engine.optimizer).__name__}"
    assert not (engine.is_pipe_partitioned or engine.is_grad_partitioned), "boundary tensors would be sliced"
    copies = [tuple(p.shape) for p in held_by_all(engine.module) if p.ndim > 1]
    assert layout.tensor == 1 or not copies, f"slices of shape {copies} are not marked: the norm would count them on one tensor rank alone"
