"""Tensor ranks in DeepSpeed's grid: who they are, and the gradients that DeepSpeed does not know to sum over them.

With sequence parallelism each tensor rank sees its own positions only, so that of a parameter which all of them hold
(the norms') each has a part of the gradient. DeepSpeed reduces over data ranks alone; left so, the copies drift apart
while the loss hardly shows it. They are summed once a step, before the data ranks meet.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from k2.model.parallel import ALONE, TensorRanks
from k2.recipe.schema import Layout
from k2.train.gradients import gradients_of


def tensor_ranks(topology: Any, layout: Layout) -> TensorRanks:
    """Those of this process. Called by all ranks together: the groups are made here."""
    if layout.tensor == 1:
        return ALONE
    mine = ALONE
    for ranks in topology.get_axis_comm_lists("model"):
        group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            mine = TensorRanks(group, layout.tensor, ranks.index(dist.get_rank()), layout.sequence_parallel)
    return mine


def held_by_all(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that tensor ranks do not share out: each holds a copy."""
    return [p for p in module.parameters() if not getattr(p, "tensor_model_parallel", False)]


def sum_copied_gradients(engine: Any, ranks: TensorRanks) -> None:
    """Have the engine sum the copies' gradients over the tensor ranks, once a step, where their positions differ."""
    if not ranks.sequence_parallel:
        return  # each rank has seen all positions and has the whole gradient
    from deepspeed.runtime.pipe import schedule

    usual = engine._INSTRUCTION_MAP
    copied = held_by_all(engine.module)

    def reduce_gradients(self: Any) -> None:
        accumulated = "_hp_grad" if self.using_bf16_optimizer else "grad"
        _sum_together(gradients_of(copied, accumulated), ranks)
        usual[schedule.ReduceGrads](self)

    engine._INSTRUCTION_MAP = {**usual, schedule.ReduceGrads: reduce_gradients}


def _sum_together(gradients: list[Tensor], ranks: TensorRanks) -> None:
    """In one message. Stages that hold no copies send none."""
    if not gradients:
        return
    joined = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(joined, group=ranks.group)
    for gradient, total in zip(gradients, torch.split(joined, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))
