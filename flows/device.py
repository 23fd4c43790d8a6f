"""One evaluation at a time on a device, whoever asks for it: a lock beside the runs, released by the kernel with its holder.

The deployments' own limits keep two runs of one deployment apart; this keeps `evaluate` and `evaluate-new` apart, and every `k2 eval` of
the machine.
"""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.run import Say
from k2.launch.seats import Seat

_LOOK_SECONDS = 0.2


@contextmanager
def device_held(runs_dir: Path, seat: Seat, say: Say, still_wanted: Callable[[], bool] = lambda: True) -> Iterator[bool]:
    """Wait until the seat's device evaluates nothing, and hold it; False when it is not wanted any more before that."""
    runs_dir.mkdir(parents=True, exist_ok=True)
    with (runs_dir / f".evaluating-on-{seat.name}").open("ab") as lock:
        held = _try_to_hold(lock.fileno())
        if not held:
            say(f"{seat.name} evaluates something else; it is waited for")
        while not held and still_wanted():
            time.sleep(_LOOK_SECONDS)
            held = _try_to_hold(lock.fileno())
        yield held


def _try_to_hold(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
