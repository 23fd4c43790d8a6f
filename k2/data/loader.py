"""The loader: a step's samples, by step number alone.

Enters a stage, the ledger's facts and a step; leaves its rows, mapped from the chunk that stands there. The state is
one integer, the step, so a resumed run reads what the unbroken one would have read, on any number of ranks.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from k2.data.chunk import chunk_name, open_rows
from k2.data.order import chunk_of_step, effective_order, is_skipped, skipped_ranges
from k2.recipe.schema import Recipe, Stage
from k2.run.layout import RunLayout
from k2.run.ledger import Fact
from k2.run.receipt import BrokenOutput


class SampleReader:
    """Reads the samples of one stage in the effective order. One chunk is open at a time.

    A chunk is compared with its receipt when it is opened first, and its ids with the model's rows: a damaged one
    raises `BrokenOutput`.
    """

    def __init__(self, recipe: Recipe, layout: RunLayout, stage: Stage, facts: Iterable[Fact]) -> None:
        facts = tuple(facts)
        self._stage, self._layout = stage, layout
        self._vocab_rows = recipe.model.vocab_rows
        self.order = effective_order(stage, facts)
        self.skipped = skipped_ranges(stage.name, facts)
        self._open: tuple[int, npt.NDArray[np.uint16]] | None = None

    def step(self, step: int) -> npt.NDArray[np.uint16]:
        """The rows of the step: [batch_samples, context]. `ValueError` for a step that does not exist or is never trained."""
        if is_skipped(step, self.skipped):
            raise ValueError(f"step {step} of {self._stage.name} is skipped: the ledger says that it is not trained")
        seat = chunk_of_step(self._stage, self.order, step)
        rows = self._rows(seat.chunk)[seat.first_row : seat.first_row + seat.count]
        return np.array(rows)

    def is_skipped(self, step: int) -> bool:
        """Whether the ledger says that the step is not trained."""
        return is_skipped(step, self.skipped)

    def _rows(self, chunk: int) -> npt.NDArray[np.uint16]:
        if self._open is None or self._open[0] != chunk:
            rows = open_rows(self._layout, self._stage, chunk)
            largest = int(rows.max())
            if largest >= self._vocab_rows:
                raise BrokenOutput(
                    f"{chunk_name(self._stage.name, chunk)} holds the token id {largest}, but model.vocab_rows = {self._vocab_rows}: "
                    "it was made with another tokenizer; prepare the data with this recipe's"
                )
            self._open = (chunk, rows)
        return self._open[1]
