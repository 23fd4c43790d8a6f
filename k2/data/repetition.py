"""Documents that repeat themselves: a run of one n-gram after the other, as spikes were traced to.

Enters a document's ids; leaves whether somewhere an n-gram of 1 to 13 tokens stands 32 times in a row. The rule is that of
OLMo 2 (arXiv 2501.00656, "repeated n-grams": documents with a sequence of 32 or more repeated n-grams, an n-gram being any
span of 1 to 13 tokens, are removed, since such sequences went before loss spikes).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

LONGEST_NGRAM, REPETITIONS = 13, 32


def repeats_itself(ids: npt.NDArray[np.unsignedinteger[Any]]) -> bool:
    """Whether an n-gram of up to `LONGEST_NGRAM` tokens stands `REPETITIONS` times or more in a row."""
    return any(_repeats(ids, size) for size in range(1, LONGEST_NGRAM + 1))


def _repeats(ids: npt.NDArray[np.unsignedinteger[Any]], size: int) -> bool:
    """Repeated so often, an n-gram equals what stands `size` later for `run` tokens on end; one of them has a multiple of `run`.

    So looking at every `run`-th token finds the places where there may be one, and few others.
    """
    run = size * (REPETITIONS - 1)
    if len(ids) < run + size:
        return False
    places = np.flatnonzero(ids[:-size:run] == ids[size::run]) * run
    return any(_longest_run(ids[max(0, place - run) : place + run + size], size) >= run for place in places.tolist())


def _longest_run(ids: npt.NDArray[np.unsignedinteger[Any]], size: int) -> int:
    """The most tokens on end that equal the one `size` later."""
    different = np.flatnonzero(ids[:-size] != ids[size:])
    edges = np.concatenate([[-1], different, [len(ids) - size]])
    return int(np.diff(edges).max()) - 1
