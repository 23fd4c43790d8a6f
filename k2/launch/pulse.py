"""Whether a trainer still lives inwardly: it hangs when no step record has come for far longer than steps take.

What enters is the file of an attempt's records and a monotonic clock (a wall clock may jump); what leaves is the
new records and a verdict.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from k2.run.records import RecordTail, StepRecord

_REMEMBERED_GAPS = 1000
_FLOOR_SECONDS = 60.0
_STARTUP_SECONDS = 180.0  # until the first record: libraries are imported, a checkpoint is loaded


def stall_limit(gaps_seconds: Sequence[float], floor_seconds: float = _FLOOR_SECONDS, startup_seconds: float = _STARTUP_SECONDS) -> float:
    """How long silence is no stall: 5 x the 99th percentile of the gaps between records, and at least the floor.

    Gaps count, not the steps' own seconds: a checkpoint between two steps is no stall.
    """
    if not gaps_seconds:
        return startup_seconds
    ordered = sorted(gaps_seconds)
    p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
    return max(5 * p99, floor_seconds)


def stalled(
    gaps_seconds: Sequence[float], silent_seconds: float, floor_seconds: float = _FLOOR_SECONDS, startup_seconds: float = _STARTUP_SECONDS
) -> bool:
    """Whether a silence of `silent_seconds` after records with these gaps means that the trainer hangs."""
    return silent_seconds > stall_limit(gaps_seconds, floor_seconds, startup_seconds)


class Pulse:
    """Follows one attempt's records. Call `observe` every second or so; it reads only what is new."""

    def __init__(
        self,
        records: Path,
        floor_seconds: float = _FLOOR_SECONDS,
        startup_seconds: float = _STARTUP_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tail, self._clock = RecordTail(records), clock
        self._floor, self._startup = floor_seconds, startup_seconds
        self._gaps: deque[float] = deque(maxlen=_REMEMBERED_GAPS)
        self._last_at: float | None = None
        self._heard = clock()

    def observe(self) -> list[StepRecord]:
        """The records written since the last call."""
        found = self._tail.new()
        for record in found:
            if self._last_at is not None:
                self._gaps.append(max(0.0, record.at - self._last_at))
            self._last_at = record.at
        if found:
            self._heard = self._clock()
        return found

    @property
    def silent_seconds(self) -> float:
        return self._clock() - self._heard

    @property
    def stalled(self) -> bool:
        return stalled(self._gaps, self.silent_seconds, self._floor, self._startup)
