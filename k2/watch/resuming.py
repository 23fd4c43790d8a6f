"""The first steps after a resume: whether it is a bad one, and a cool-down in which what passes is no onset.

A real bad resume (410M parameters, its optimizer state lost) had a normal first step and a loss of 11 from the second
on; 36 of 36 healthy ones repeated the first recorded loss to the bit, and drifted by up to 0.02 nat later.
"""

import math
from collections.abc import Mapping
from typing import Any

from k2.recipe.spikes import Spikes
from k2.watch.episode import Windows

_COMPARED_STEPS = 3
_DRIFT = 10.0  # steps after the first may differ by so many times more: their sums were added in another order
_LOUD_STEPS = 2  # in a row; one alone may be the data


class ResumeWatch:
    """Follows the records by attempt. Inside an episode a resume is loud because of the episode: nothing is said of it."""

    def __init__(self, spikes: Spikes, windows: Windows) -> None:
        self._relative, self._windows = spikes.replay_relative, windows
        self._age = 0  # trained steps since the last resume; 0: there was none, or it is long ago
        self._loud = 0
        self._recorded: list[tuple[int, float, float]] = []  # (step, loss, by how much it may differ), in order

    def begin(self, in_episode: bool) -> None:
        """The next record is the first one after a resume."""
        self._age, self._loud = (0, 0) if in_episode else (1, 0)

    def expect(self, recorded: Mapping[int, float]) -> None:
        """The losses that were recorded, from the same state and data, of the steps that a resume trains again."""
        steps = [step for step in sorted(recorded) if math.isfinite(recorded[step])][:_COMPARED_STEPS]
        shares = [self._relative, *(_DRIFT * self._relative for _ in steps[1:])]
        self._recorded = [(step, recorded[step], share * abs(recorded[step])) for step, share in zip(steps, shares, strict=False)]

    @property
    def cooling(self) -> bool:
        return 0 < self._age <= self._windows.cool_down

    def is_bad(self, loud: bool) -> bool:
        """Whether two loud steps in a row came shortly after the resume. Call it once a record; the record's age ends here."""
        if self._age == 0:
            return False
        self._loud = self._loud + 1 if loud else 0
        bad = self._loud >= _LOUD_STEPS and self._age <= self._windows.resume
        over = self._age >= max(self._windows.resume, self._windows.cool_down)
        self._age = 0 if over else self._age + 1
        return bad

    def differs(self, step: int, loss: float) -> bool:
        """Whether a step that is trained again gives another loss than it gave."""
        known = next(((value, limit) for at, value, limit in self._recorded if at == step), None)
        self._recorded = [entry for entry in self._recorded if entry[0] > step]
        return known is not None and not abs(loss - known[0]) <= known[1]

    def state(self) -> dict[str, Any]:
        return {"age": self._age, "loud": self._loud, "recorded": [list(entry) for entry in self._recorded]}

    def restore(self, state: dict[str, Any]) -> None:
        self._age, self._loud = state["age"], state["loud"]
        self._recorded = [(step, value, limit) for step, value, limit in state["recorded"]]
