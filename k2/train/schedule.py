"""The learning rate as a pure function of the step: linear warmup, then a cosine or a line down to the final rate.

Megatron-LM's formula, which K2 trained with (K2 §3.1): `final + (1 + cos(pi r)) / 2 * (peak - final)`, `r` counted
from the end of the warmup to the stage's last step. Faults that a recipe declares multiply it for some steps.
"""

import math
from collections.abc import Sequence

from k2.recipe.schema import Fault, Schedule


def learning_rate(schedule: Schedule, step: int, total_steps: int) -> float:
    """The rate of `step`, counted from 1. At the last step of the warmup it is `peak`, at the last step of all `final`."""
    if not 1 <= step <= total_steps:
        raise ValueError(f"step {step} lies outside of the stage's steps 1 to {total_steps}")
    if step <= schedule.warmup_steps:
        return schedule.peak * step / schedule.warmup_steps
    done = (step - schedule.warmup_steps) / (total_steps - schedule.warmup_steps)
    remaining = (1.0 + math.cos(math.pi * done)) / 2 if schedule.kind == "cosine" else 1.0 - done
    return schedule.final + remaining * (schedule.peak - schedule.final)


def fault_factor(faults: Sequence[Fault], stage: str, step: int) -> float:
    """By how much the declared faults multiply the rate of this step."""
    return math.prod(fault.learning_rate_factor for fault in faults if fault.strikes("learning_rate", stage, step))
