"""Progress for the person who watches: one line with stage, chunk, step, loss, tokens/s and the time left."""

import time
from collections import deque
from collections.abc import Callable

from k2.recipe.schema import Recipe
from k2.run.records import StepRecord

_WINDOW_RECORDS = 50


class Progress:
    """Takes step records, says a line at most every `every_seconds`."""

    def __init__(
        self, recipe: Recipe, say: Callable[[str], None], every_seconds: float = 2.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._recipe = recipe
        self._say = say
        self._every = every_seconds
        self._clock = clock
        self._said = float("-inf")
        self._recent: deque[StepRecord] = deque(maxlen=_WINDOW_RECORDS)

    def see(self, record: StepRecord) -> None:
        """Note the record; say a line when it is time, and at every chunk's end."""
        self._recent.append(record)
        ends_chunk = record.step % self._recipe.stage(record.stage).steps_per_chunk == 0
        if ends_chunk or self._clock() - self._said >= self._every:
            self._said = self._clock()
            self._say(describe(self._recipe, list(self._recent)))


def describe(recipe: Recipe, recent: list[StepRecord]) -> str:
    """One line about the last of `recent`, its speed and time left from all of them."""
    record = recent[-1]
    stage = recipe.stage(record.stage)
    rate = tokens_per_second(recipe, recent)
    left = remaining_tokens(recipe, record) / rate if rate else 0.0
    chunk = (record.step - 1) // stage.steps_per_chunk
    return (
        f"{stage.name} chunk {chunk:03d}/{stage.chunks}  step {record.step}/{stage.steps}  loss {record.loss:.3f}  "
        f"lr {record.lr:.2e}  {rate:,.0f} tokens/s  {100 * done_fraction(recipe, record):.0f} % of training, {duration(left)} left"
    )


def tokens_per_second(recipe: Recipe, recent: list[StepRecord]) -> float:
    """Tokens trained per second of step time over the given records."""
    seconds = sum(record.seconds for record in recent)
    return sum(recipe.stage(record.stage).tokens_per_step for record in recent) / seconds if seconds > 0 else 0.0


def remaining_tokens(recipe: Recipe, record: StepRecord) -> int:
    """Tokens from this step to the end of the last stage."""
    names = [stage.name for stage in recipe.stages]
    later = recipe.stages[names.index(record.stage) + 1 :]
    stage = recipe.stage(record.stage)
    return (stage.steps - record.step) * stage.tokens_per_step + sum(s.tokens for s in later)


def done_fraction(recipe: Recipe, record: StepRecord) -> float:
    """How much of all stages' tokens lies behind this step."""
    total = sum(stage.tokens for stage in recipe.stages)
    return 1 - remaining_tokens(recipe, record) / total


def duration(seconds: float) -> str:
    """`1 h 05 min`, `3 min 20 s`, `45 s`."""
    whole = round(seconds)
    if whole >= 86_400:
        return f"{whole / 86_400:.1f} days"
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
