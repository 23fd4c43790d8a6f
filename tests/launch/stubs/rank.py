"""A rank as torchrun starts them, in its own session, with a child of its own in yet another session.

Usage: rank.py FOLDER polite|deaf. A polite one leaves a file `saved` on SIGTERM and ends with 0; a deaf one ignores it.
"""

import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    folder, manner = Path(sys.argv[1]), sys.argv[2]
    if manner == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: save(folder))
    kind = "rank"
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN if manner == "deaf" else signal.SIG_DFL)
        kind = "child"
    (folder / f"{kind}_{os.getpid()}").touch()
    while True:
        time.sleep(60)


def save(folder: Path) -> None:
    (folder / "saved").touch()
    sys.exit(0)


main()
