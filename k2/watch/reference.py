"""What is normal: a robust reference that lags behind the newest values.

Accepted values enter one by one; the median and the scaled median absolute deviation of the older part of the
ring leave. The newest part is left out (the lag), so that a slow rise does not become its own reference. Spikes
specification 4.2: 640 values kept, 128 of them lag, recomputed every 4.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

_RECOMPUTE_EVERY = 4
_MAD_TO_DEVIATION = 1.4826  # a normal distribution's standard deviation over its median absolute deviation


@dataclass(frozen=True)
class Normal:
    """Centre and spread of what was accepted."""

    centre: float
    deviation: float


class LaggedReference:
    """Median and MAD over the last `window + lag` accepted values without the newest `lag`.

    Before the ring is full the newest quarter is left out. Nothing is known before `warmup` values.
    """

    def __init__(self, window: int, lag: int, warmup: int) -> None:
        self._size, self._lag, self._warmup = window + lag, lag, warmup
        self._ring = np.zeros(self._size)
        self._count = 0
        self._normal: Normal | None = None

    @property
    def normal(self) -> Normal | None:
        """None while warming up."""
        return self._normal

    def accept(self, value: float) -> None:
        """Take in one finite value that is no outlier."""
        self._ring[self._count % self._size] = value
        self._count += 1
        if self._count == self._warmup or (self._count > self._warmup and self._count % _RECOMPUTE_EVERY == 0):
            self._normal = self._compute()

    def shift(self, by: float) -> None:
        """Take another level for the normal one, with the spread that is known."""
        self._ring += by
        if self._normal is not None:
            self._normal = Normal(self._normal.centre + by, self._normal.deviation)

    def forget(self) -> None:
        """Begin anew, with a warm-up."""
        self._count = 0
        self._normal = None

    def state(self) -> dict[str, Any]:
        normal = None if self._normal is None else [self._normal.centre, self._normal.deviation]
        return {"count": self._count, "newest": self._in_order().tolist(), "normal": normal}

    def restore(self, state: dict[str, Any]) -> None:
        newest = state["newest"]
        self._count = state["count"]
        for position, value in enumerate(newest, start=self._count - len(newest)):
            self._ring[position % self._size] = value
        self._normal = None if state["normal"] is None else Normal(*state["normal"])

    def _in_order(self) -> np.ndarray:
        """The kept values, oldest first."""
        if self._count < self._size:
            return self._ring[: self._count]
        head = self._count % self._size
        return np.concatenate((self._ring[head:], self._ring[:head]))

    def _compute(self) -> Normal:
        kept = self._in_order()
        lag = self._lag if len(kept) == self._size else len(kept) // 4
        older = kept[: len(kept) - lag]
        centre = _median(older)
        return Normal(centre, _MAD_TO_DEVIATION * _median(np.abs(older - centre)))


def _median(values: np.ndarray) -> float:
    """The upper median: one of the values, so that no rounding enters."""
    middle = len(values) // 2
    return float(np.partition(values, middle)[middle])
