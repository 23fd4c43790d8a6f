"""Stalls as the records show them: one that came far later than its attempt's records do.

Whoever watches the process sees a stall while it lasts (`launch.pulse`); here it is found again in any recorded
curve, by the rule of the spikes specification 4.1: 5 x the 99th percentile of the gaps, at least 120 s.
"""

import math
from collections import deque
from typing import Any

from k2.run.records import StepRecord

_FLOOR_SECONDS = 120.0
_SAFETY = 5.0
_REMEMBERED_GAPS = 128


class SilenceWatch:
    """Takes every record. Records without a time, and the first of an attempt, have no gap before them."""

    def __init__(self) -> None:
        self._gaps: deque[float] = deque(maxlen=_REMEMBERED_GAPS)
        self._attempt, self._at = 0, 0.0

    def broken_by(self, record: StepRecord) -> bool:
        """Whether the record ends a stall."""
        gap = record.at - self._at if record.attempt == self._attempt and self._at > 0.0 else 0.0
        self._attempt, self._at = record.attempt, record.at
        if gap <= 0.0:  # a clock that was set back
            return False
        stalled = gap > _FLOOR_SECONDS and len(self._gaps) > 1 and gap > _SAFETY * self._percentile()
        self._gaps.append(gap)
        return stalled

    def state(self) -> dict[str, Any]:
        return {"gaps": list(self._gaps), "attempt": self._attempt, "at": self._at}

    def restore(self, state: dict[str, Any]) -> None:
        self._gaps.extend(state["gaps"])
        self._attempt, self._at = state["attempt"], state["at"]

    def _percentile(self) -> float:
        ordered = sorted(self._gaps)
        return ordered[math.ceil(0.99 * len(ordered)) - 1]
