"""The loader: a step's samples, by step number alone.

Enters a stage, the ledger's facts and a step; leaves its rows, mapped from the chunk that stands there. The state is
one integer, the step, so a resumed run reads what the unbroken one would have read, on any number of ranks.
A chunk's bytes are compared with their digest when it is first opened, and not again while its file stays what it was:
7.9 GB (a chunk of K2) take one core about 5 s, once in 6.4 hours of training.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from k2.data.chunk import chunk_name, chunk_receipt, map_rows, open_rows
from k2.data.order import Order, sequence_of
from k2.recipe.schema import Recipe, Stage
from k2.run.layout import RunLayout
from k2.run.ledger import Fact
from k2.run.receipt import BrokenOutput, read_receipt


class SampleReader:
    """Reads the samples of one stage in the effective sequence. One chunk is open at a time.

    When a chunk is opened its receipt is compared with the one over all chunks, its bytes with its receipt, and its
    ids with the model's rows. `BrokenOutput` when they do not agree, or when the data was never prepared.
    """

    def __init__(self, recipe: Recipe, layout: RunLayout, stage: Stage, facts: Iterable[Fact]) -> None:
        self._stage, self._layout = stage, layout
        self._vocab_rows = recipe.model.vocab_rows
        self._prepared = read_receipt(layout.all_chunks).inputs
        self.sequence = sequence_of(stage, facts)
        self._open: tuple[int, npt.NDArray[np.uint16]] | None = None
        self._verified: dict[int, tuple[int, ...]] = {}

    @property
    def order(self) -> Order:
        """The chunk at each position."""
        return self.sequence.order

    def step(self, step: int) -> npt.NDArray[np.uint16]:
        """The rows of the step: [batch_samples, context]. `ValueError` for a step that does not exist or is never trained."""
        seat = self.sequence.seat(step)
        if self.sequence.is_skipped(step):
            raise ValueError(f"step {step} of {self._stage.name} is skipped: the ledger says that it is not trained")
        return np.array(self._rows(seat.chunk)[self.sequence.rows(step)])

    def is_skipped(self, step: int) -> bool:
        """Whether the ledger says that the step is not trained."""
        return self.sequence.is_skipped(step)

    def _rows(self, chunk: int) -> npt.NDArray[np.uint16]:
        if self._open is None or self._open[0] != chunk:
            self._open = (chunk, self._opened(chunk))
        return self._open[1]

    def _opened(self, chunk: int) -> npt.NDArray[np.uint16]:
        """The chunk's rows, verified unless they were and the file is still the same one."""
        identity = _identity(self._layout, self._stage.name, chunk)
        if self._verified.get(chunk) == identity:
            return map_rows(self._layout, self._stage, chunk)
        rows = self._verify(chunk)
        self._verified[chunk] = identity
        return rows

    def _verify(self, chunk: int) -> npt.NDArray[np.uint16]:
        name = chunk_name(self._stage.name, chunk)
        if read_receipt(chunk_receipt(self._layout, self._stage.name, chunk)).digest != self._prepared.get(name):
            raise BrokenOutput(
                f"{name} is not the chunk that {self._layout.all_chunks} was prepared with: it was replaced; prepare the data again"
            )
        rows = open_rows(self._layout, self._stage, chunk)
        largest = int(rows.max())
        if largest >= self._vocab_rows:
            raise BrokenOutput(
                f"{name} holds the token id {largest}, but model.vocab_rows = {self._vocab_rows}: "
                "it was made with another tokenizer; prepare the data with this recipe's"
            )
        return rows


def _identity(layout: RunLayout, stage: str, chunk: int) -> tuple[int, ...]:
    """What changes when a file is replaced or written to."""
    try:
        found = layout.chunk(stage, chunk).stat()
    except FileNotFoundError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
