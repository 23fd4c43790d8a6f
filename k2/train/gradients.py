"""The gradients of a data rank that shares its work with no other: laid end to end once a step, where the optimizer takes them.

DeepSpeed's reduction over data ranks copies each gradient into a bucket, reduces it, copies it back and flattens it, in memory that
is new at each step. On one data rank there is nothing to reduce, and one copy into memory of our own does (`benchmarks/NOTES.md`
has what it gains). The sums are the same, to the bit.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from k2.recipe.schema import Layout


def lay_end_to_end(engine: Any, layout: Layout) -> None:
    """Have the engine take the gradients as they are, where it is ZeRO 1 in fp32 on one data rank; bf16 has another optimizer."""
    if layout.data > 1 or layout.zero_stage != 1 or layout.precision != "fp32":
        return
    from deepspeed.runtime.pipe import schedule

    zero = engine.optimizer
    assert not zero.use_grad_accum_attribute, "gradients would be elsewhere than in `grad`"
    groups = [zero._build_compact_grad_partition_buffer(number) for number in range(len(zero.params_in_partition))]
    engine._INSTRUCTION_MAP = {**engine._INSTRUCTION_MAP, schedule.ReduceGrads: lambda self: _lay(self.optimizer, groups)}
    zero.check_grad_overflow = False  # the norm shows a number that is not finite as well, and DeepSpeed looks there too
    for hook in zero._grad_acc_hooks:  # they count the gradients of each micro-batch, for the reduction that there is none of
        hook.remove()


def gradients_of(parameters: Iterable[nn.Parameter], attribute: str = "grad") -> list[Tensor]:
    """As they stand in `attribute`; all of them must be there."""
    found = [(parameter, getattr(parameter, attribute)) for parameter in parameters]
    without = [tuple(parameter.shape) for parameter, gradient in found if gradient is None]
    assert not without, f"parameters of shape {without} have no gradient: the loss does not depend on them"
    return [gradient for _, gradient in found]


def _lay(zero: Any, groups: list[Any]) -> None:
    """Copy the gradients to their places, between which padding stays zero, and let go of them."""
    for number, (group, parameters) in enumerate(zip(groups, zero.params_in_partition, strict=True)):
        places = [place for place in group if not getattr(place, "_zero_padding", False)]
        torch._foreach_copy_(places, gradients_of(parameters))
        zero.averaged_gradients[number] = group
        for parameter in parameters:
            parameter.grad = None
