"""Whether a trainer that was asked to stop heeds it: a living one looks at every step, finishes it, saves and ends.

What enters is whether a request stands and how many steps were recorded since the last look; what leaves is the moment to
end it by force. A trainer that is silent saves, or hangs: that is `pulse`'s to tell.
"""

import time
from collections.abc import Callable

UNHEEDING_SECONDS, UNHEEDING_STEPS = 120.0, 3


class Heed:
    """Looks at one trainer. `clock` is monotonic: a wall clock may jump."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked_at: float | None = None
        self._steps = 0

    def is_refused(self, asked: bool, num_steps: int) -> bool:
        """Whether it went on for more than a few steps and two minutes after it was asked."""
        if not asked:
            self._asked_at, self._steps = None, 0
            return False
        if self._asked_at is None:
            self._asked_at = self._clock()
            return False
        self._steps += num_steps
        return self._steps > UNHEEDING_STEPS and self._clock() - self._asked_at > UNHEEDING_SECONDS
