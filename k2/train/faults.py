"""The disturbances that a recipe declares, as the trainer carries them out: for experiments on what heals a run, and for nothing else.

Enter the declared faults and a step; leave rows that repeat themselves, or a word to the engine. Everything is a function of
the step, so a resumed run is disturbed as the unbroken one. The learning rate's own disturbance is in `schedule`.

Shapes: B samples of the step, T positions of the context.
"""

import numpy as np
from numpy.typing import NDArray

from k2.recipe.schema import FaultKind, Recipe, Stage

_REPEATED_TOKENS = 3


def strikes(recipe: Recipe, kind: FaultKind, stage: Stage, step: int) -> bool:
    """Whether the recipe declares that disturbance of the step."""
    return any(fault.strikes(kind, stage.name, step) for fault in recipe.faults)


def declares(recipe: Recipe, kind: FaultKind, stage: Stage) -> bool:
    """Whether the stage is disturbed in that way anywhere."""
    return any(fault.kind == kind and fault.stage == stage.name for fault in recipe.faults)


def disturbed_rows(recipe: Recipe, stage: Stage, step: int, rows_BT: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The step's rows; where the fault strikes, each repeats three tokens of its own: the poisoned chunk that data filters look for."""
    if not strikes(recipe, "repeated_tokens", stage, step):
        return rows_BT
    random = np.random.default_rng((recipe.seed, step))
    gram = random.integers(0, recipe.model.vocab_rows, size=(rows_BT.shape[0], _REPEATED_TOKENS), dtype=np.uint16)
    return np.tile(gram, (1, rows_BT.shape[1] // _REPEATED_TOKENS + 1))[:, : rows_BT.shape[1]]
