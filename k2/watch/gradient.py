"""The gradient norm by the same scheme as the loss, on its logarithm: an early warning while the loss is calm.

BLOOM-176B's norm rose eightfold three steps before its loss did (its chronicles, iterations 31,214 to 31,222).
"""

import math
from typing import Any

from k2.recipe.spikes import Spikes
from k2.watch.episode import Reading, Windows
from k2.watch.reference import LaggedReference, Normal


class GradientWatch:
    """Takes every reading outside of an episode. Without gradient norms it says nothing and nothing is lost."""

    def __init__(self, spikes: Spikes, windows: Windows) -> None:
        self._spikes = spikes
        self._norms = LaggedReference(windows.reference, windows.lag, windows.warmup)
        self._is_up = False

    @property
    def normal(self) -> Normal | None:
        """Of the logarithm; None while warming up."""
        return self._norms.normal

    def warns(self, reading: Reading) -> bool:
        """Whether the norm has just risen far above what is normal."""
        normal = self._norms.normal
        if reading.log_norm is None:
            return False
        was_up, self._is_up = self._is_up, normal is not None and self._is_high(reading.log_norm, normal)
        if not self._is_up:
            self._norms.accept(reading.log_norm)
        return self._is_up and not was_up

    def forget(self) -> None:
        self._norms.forget()
        self._is_up = False

    def state(self) -> dict[str, Any]:
        return {"norms": self._norms.state(), "is_up": self._is_up}

    def restore(self, state: dict[str, Any]) -> None:
        self._norms.restore(state["norms"])
        self._is_up = state["is_up"]

    def _is_high(self, log_norm: float, normal: Normal) -> bool:
        return log_norm - normal.centre > max(math.log(self._spikes.grad_ratio), self._spikes.onset_z * normal.deviation)
