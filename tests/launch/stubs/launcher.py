"""What torchrun is to us: starts ranks in sessions of their own and ends with 1 when one of them fails.

Usage: launcher.py FOLDER MANNER RANKS. A deaf one does not listen to SIGTERM either.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

folder, manner, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if manner == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
rank = str(Path(__file__).parent / "rank.py")
ranks = [subprocess.Popen([sys.executable, rank, str(folder), manner], start_new_session=True) for _ in range(count)]
(folder / f"launcher_{os.getpid()}").touch()
for _ in ranks:
    _, status = os.wait()
    if status != 0:
        sys.exit(1)
