"""Faults on purpose: named points of the code at which a test has a process die, hang or fail.

`K2_FAULTS` holds a JSON list of `{"at": POINT, "rank": R, "step": N, "attempt": A, "do": ACTION}`; what is left out may be any, and
`times` (1) says how often in a process. In a run without that variable a point costs a look at a dictionary. ACTION is the name of a
signal that the process sends itself, `ENOSPC` and the like, or a word that whoever stands at the point understands.
"""

import errno
import json
import os
import signal
from dataclasses import dataclass

VARIABLE = "K2_FAULTS"
ATTEMPT = "K2_ATTEMPT"  # which attempt this process is of, where it knows


@dataclass
class _Armed:
    at: str
    do: str
    rank: int | None = None
    step: int | None = None
    attempt: int | None = None
    times: int = 1

    def is_meant(self, point: str, rank: int, step: int | None) -> bool:
        here = self.at == point and self.rank in (None, rank) and self.step in (None, step)
        return here and self.times > 0 and self.attempt in (None, int(os.environ.get(ATTEMPT, "0")))


_armed: list[_Armed] | None = None


def strike(point: str, step: int | None = None) -> str | None:
    """Whatever is armed for this point happens. A word that is neither a signal nor an error is given back."""
    if VARIABLE not in os.environ:
        return None
    rank = int(os.environ.get("RANK", "0"))
    for fault in _faults():
        if fault.is_meant(point, rank, step):
            fault.times -= 1
            return _happen(fault.do, point)
    return None


def _faults() -> list[_Armed]:
    global _armed  # noqa: PLW0603 (read once a process; counts down)
    if _armed is None:
        _armed = [_Armed(**fields) for fields in json.loads(os.environ[VARIABLE])]
    return _armed


def _happen(action: str, point: str) -> str | None:
    if action in signal.Signals.__members__:
        os.kill(os.getpid(), signal.Signals[action])
        return None
    if action in errno.errorcode.values():
        number = getattr(errno, action)
        raise OSError(number, f"{os.strerror(number)} (on purpose, at {point})")
    return action
