"""Alarms: what a trainer that goes on wants somebody to know. A line of its log, which its driver reads as it grows."""

import sys
from pathlib import Path

_MARK = "k2.train: ALARM: "


def raise_alarm(text: str) -> None:
    """Say it to whoever drives this process."""
    print(f"{_MARK}{text}", file=sys.stderr, flush=True)


class AlarmTail:
    """The alarms in a log since the last look."""

    def __init__(self, log: Path) -> None:
        self._log, self._offset = log, 0

    def new(self) -> list[str]:
        """The alarms of the complete lines that came since."""
        if not self._log.is_file():
            return []
        with self._log.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        lines = whole.decode("utf-8", "replace").splitlines()
        return [line.partition(_MARK)[2] for line in lines if _MARK in line]
