"""Two checkpoints' states side by side, whatever layouts they were saved by."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from k2.checkpoint.state import StateReader, read_kinds


@dataclass(frozen=True)
class StateDifference:
    """`equal`: every weight, moment and the counter of updates, to the bit."""

    equal: bool
    max_abs_weight_difference: float


def compare_states(one: Path, other: Path) -> StateDifference:
    """Compare the states of two checkpoint folders. `BrokenOutput` when one cannot be read."""
    with StateReader(one) as a, StateReader(other) as b:
        equal = a.updates == b.updates and a.names == b.names
        largest = 0.0
        for name in a.names:
            for kind in read_kinds(a):
                x, y = a.whole(name, kind), b.whole(name, kind)
                equal = equal and np.array_equal(x, y)
                if kind == "master":
                    largest = max(largest, float(np.abs(x - y).max()))
    return StateDifference(equal, largest)
