"""Whether a trainer still lives inwardly: it hangs when no step record has come for far longer than steps take.

What enters is the file of an attempt's records, after which steps checkpoints are saved, and a monotonic clock (a wall
clock may jump); what leaves is the new records and a verdict.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from k2.recipe.place import Place
from k2.run.records import RecordTail, StepRecord

_REMEMBERED_GAPS = 1000
_SAVING_SECONDS = 1800.0  # K2-65B's weights and optimizer state are about 0.8 TB, to a shared disk that others write to as well
_STARTUP_SECONDS = 1800.0  # until steps have a rhythm: cold imports, compiled kernels, a checkpoint verified and loaded


@dataclass(frozen=True)
class Patience:
    """How many seconds of silence are no stall: between steps at least, where a checkpoint is being saved, and at the start."""

    floor_seconds: float = Place().hang_floor_seconds
    saving_seconds: float = _SAVING_SECONDS
    startup_seconds: float = _STARTUP_SECONDS


USUAL_PATIENCE = Patience()


def stall_limit(gaps_seconds: Sequence[float], saving: bool = False, patience: Patience = USUAL_PATIENCE) -> float:
    """How long silence is no stall: 5 x the 99th percentile of the gaps between records, 2 x the longest, and at least the floor.

    Gaps count, not the steps' own seconds. Saves are too few to be in the percentile: `saving`, while one may go on, has its own floor.
    """
    if not gaps_seconds:
        return patience.startup_seconds
    ordered = sorted(gaps_seconds)
    p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
    return max(5 * p99, 2 * ordered[-1], patience.saving_seconds if saving else patience.floor_seconds)


class Pulse:
    """Follows one attempt's records. Call `observe` every second or so; it reads only what is new.

    `saves_after` says of a step whether a checkpoint is saved after it.
    """

    def __init__(
        self,
        records: Path,
        saves_after: Callable[[int], bool],
        patience: Patience = USUAL_PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tail, self._saves_after, self._patience, self._clock = RecordTail(records), saves_after, patience, clock
        self._gaps: deque[float] = deque(maxlen=_REMEMBERED_GAPS)
        self._last: StepRecord | None = None
        self._heard = clock()

    def observe(self) -> list[StepRecord]:
        """The records written since the last call."""
        found = self._tail.new()
        for record in found:
            if self._last is not None:
                self._gaps.append(max(0.0, record.at - self._last.at))
            self._last = record
        if found:
            self._heard = self._clock()
        return found

    @property
    def silent_seconds(self) -> float:
        return self._clock() - self._heard

    @property
    def stalled(self) -> bool:
        saving = self._last is not None and self._saves_after(self._last.step)
        return self.silent_seconds > stall_limit(self._gaps, saving, self._patience)
