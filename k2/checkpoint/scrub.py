"""The scrub: once a day an old checkpoint is digested again, so that a disk that rots is known before its files are needed. Torch-free."""

import json
from collections.abc import Iterable
from pathlib import Path

from k2.checkpoint.select import verify
from k2.run.durable import write_durably
from k2.run.layout import RunLayout

EVERY_SECONDS = 86_400.0


def due_for_scrub(layout: RunLayout, names: Iterable[str], at_seconds: float) -> str | None:
    """The checkpoint that was scrubbed longest ago, or never; none within a day of the last scrub."""
    done = _done(layout.scrubbed)
    if done and at_seconds - max(done.values()) < EVERY_SECONDS:
        return None
    return min(names, key=lambda name: done.get(name, 0.0), default=None)


def scrub(layout: RunLayout, name: str, at_seconds: float) -> list[str]:
    """What is wrong with the checkpoint, one line each. One that is gone by then is not wrong: it was set aside."""
    wrong = verify(layout, name)
    write_durably(layout.scrubbed, json.dumps(_done(layout.scrubbed) | {name: at_seconds}).encode())
    return wrong if layout.checkpoint(name).is_dir() else []


def _done(path: Path) -> dict[str, float]:
    """When each was scrubbed, in seconds since the epoch."""
    try:
        return {str(name): float(at) for name, at in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, AttributeError):
        return {}
