"""One evaluation at a time on a device, whoever asks for it: a lock beside the runs, released by the kernel with its holder.

The deployments' own limits keep two runs of one deployment apart; this keeps `evaluate` and `evaluate-new` apart, and every command line
of the machine. A worker for each device, with its `CUDA_VISIBLE_DEVICES`, evaluates on several at a time.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from k2.launch.process import find_device
from k2.recipe.place import Place


@contextmanager
def device_held(runs_dir: Path, place: Place) -> Iterator[str]:
    """Wait until the place's device evaluates nothing, and hold it; its name is given."""
    device = find_device(place)
    name = f"{device}-{os.environ.get('CUDA_VISIBLE_DEVICES', 'all').replace(',', '-')}" if device == "cuda" else device
    runs_dir.mkdir(parents=True, exist_ok=True)
    with (runs_dir / f".evaluating-on-{name}").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield name
