"""Notes between a trainer and who drives it: the request to stop, and the trainer's word that a resume was bad."""

import json
from dataclasses import asdict, dataclass

from k2.run.durable import write_durably
from k2.run.layout import RunLayout


@dataclass(frozen=True)
class StopRequest:
    """`attempt` guards against a request that is older than the trainer which reads it."""

    attempt: int
    reason: str


def request_stop(layout: RunLayout, attempt: int, reason: str) -> StopRequest:
    """Ask for a stop of that attempt."""
    request = StopRequest(attempt, reason)
    write_durably(layout.stop_request, json.dumps({"attempt": attempt, "reason": reason}).encode())
    return request


def read_stop_request(layout: RunLayout) -> StopRequest | None:
    """The request that stands, if there is a readable one."""
    try:
        fields = json.loads(layout.stop_request.read_bytes())
        return StopRequest(int(fields["attempt"]), str(fields["reason"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def clear_stop_request(layout: RunLayout) -> None:
    """Forget a request that was answered, or is older than this driver."""
    layout.stop_request.unlink(missing_ok=True)


@dataclass(frozen=True)
class BadResume:
    """What an attempt found wrong with the state it started from. `step` showed it; 0: before the first."""

    attempt: int
    checkpoint: str
    step: int
    why: str


def note_bad_resume(layout: RunLayout, found: BadResume) -> None:
    """Leave word of it for the driver, durably: the trainer ends now."""
    write_durably(layout.bad_resume, json.dumps(asdict(found)).encode())


def read_bad_resume(layout: RunLayout, attempt: int) -> BadResume | None:
    """The word that this attempt left, if it left one."""
    try:
        found = BadResume(**json.loads(layout.bad_resume.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return found if found.attempt == attempt else None
