"""Whether training may go on under a recipe from what another one trained. Pure: two recipes in, the fields that forbid it out.

Everything that the numbers depend on must stay: model, tokenizer, data, stages, optimizer, precision, seed. What may change is
where and how it runs and what is done beside it.
"""

import re

from k2.recipe.load import differences
from k2.recipe.schema import Recipe

# Another layout or micro-batch takes the same samples in the same order, and sums them in another.
_MAY_CHANGE = re.compile(
    r"^(name|description"
    r"|layout\.(pipeline|data|tensor|sequence_parallel|zero_stage|recompute)"
    r"|stages\.\d+\.micro_batch_samples"
    r"|(checkpoints|spikes|evaluation|publishing|energy)\..*|faults(\..*)?)$"
)


def misfits(trained: Recipe, wanted: Recipe) -> list[str]:
    """One line a field that differs and must not: `optimizer.beta2: 0.95 -> 0.99`."""
    return [line for line in differences(trained, wanted) if not _MAY_CHANGE.match(line.partition(": ")[0])]
