"""The stop request: how anybody asks a running trainer to finish its step, save and end."""

import json
from dataclasses import dataclass

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
