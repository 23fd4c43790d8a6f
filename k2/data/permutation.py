"""The permutation inside a chunk, from which any one place can be asked for, both ways, without making it whole.

Enters the seed, the stage's and the chunk's name and how many samples the chunk has; leaves where each sample sits. A
chunk of K2 has 1,919,640 rows, and a document's samples lie in many chunks: to find their rows, each chunk's permutation
is inverted at a few places, in a fraction of a millisecond. It is a Feistel network over a grid a little larger than
the chunk (M. Luby and C. Rackoff, 1988); a place outside the chunk is sent through again until it lies inside.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt

import numpy as np
import numpy.typing as npt

_ROUNDS = 8  # four are proven enough for large grids; small chunks get more
_BLOCK = 1 << 15  # places worked on at once: what a processor's cache holds

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Permutation:
    """The numbers 0 to `size` - 1 in another order.

    A place is a line and a column of a grid. Each round turns one of them by a random number that the other one
    chooses, so each can be turned back. `turns` has a table a round, for columns and lines by turns.
    """

    size: int
    lines: int
    columns: int
    turns: tuple[Places, ...]

    def at(self, places: Places) -> Places:
        """What stands at these places."""
        return self._walk(places, self._forward)

    def place_of(self, values: Places) -> Places:
        """Where these stand: `place_of(at(p)) == p`."""
        return self._walk(values, self._back)

    def whole(self) -> Places:
        """What stands at every place, in order."""
        blocks = (np.arange(first, min(first + _BLOCK, self.size), dtype=np.int64) for first in range(0, self.size, _BLOCK))
        return np.concatenate([self.at(block) for block in blocks])

    def _walk(self, start: Places, step: Callable[[Places], Places]) -> Places:
        """One step, and for what it sends outside of the chunk as many more as lead inside again."""
        reached = step(start)
        outside = np.flatnonzero(reached >= self.size)
        while outside.size:
            reached[outside] = step(reached[outside])
            outside = outside[reached[outside] >= self.size]
        return reached

    def _forward(self, places: Places) -> Places:
        line, column = np.divmod(places, self.columns)
        for number, turn in enumerate(self.turns):
            if number % 2 == 0:
                line = _turned(line, turn[column], self.lines)
            else:
                column = _turned(column, turn[line], self.columns)
        return line * self.columns + column

    def _back(self, places: Places) -> Places:
        line, column = np.divmod(places, self.columns)
        for number, turn in reversed(tuple(enumerate(self.turns))):
            if number % 2 == 0:
                line = _turned(line, self.lines - turn[column], self.lines)
            else:
                column = _turned(column, self.columns - turn[line], self.columns)
        return line * self.columns + column


def permutation_of_chunk(seed: int, stage: str, chunk: int, samples: int) -> Permutation:
    """The order of a chunk's samples. RandomState's streams are frozen: the same numbers with every numpy."""
    words = np.frombuffer(f"{seed} {stage} {chunk}".encode(), dtype=np.uint8).astype(np.uint32)
    random = np.random.RandomState(words)
    columns = isqrt(samples - 1) + 1
    lines = -(-samples // columns)
    shapes = [(lines, columns) if number % 2 == 0 else (columns, lines) for number in range(_ROUNDS)]
    return Permutation(samples, lines, columns, tuple(random.randint(0, bound, size, dtype=np.int64) for bound, size in shapes))


def _turned(numbers: Places, by: Places, modulus: int) -> Places:
    """`(numbers + by) % modulus` for numbers below it and `by` up to it, without the slow division."""
    turned = numbers + by
    turned -= modulus * (turned >= modulus)
    return turned
