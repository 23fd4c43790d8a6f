"""What a flow is to us: holds the lease of a run, launches a trainer, and waits for it.

Usage: driver.py RUN_ROOT FOLDER MANNER. Prints the supervisor's pid.
"""

import os
import sys
from pathlib import Path

from k2.launch.command import MARK, Command, mark
from k2.launch.process import launch
from k2.run.layout import RunLayout
from k2.run.lease import hold

layout, folder, manner = RunLayout(Path(sys.argv[1])), sys.argv[2], sys.argv[3]
launcher = str(Path(__file__).parent / "launcher.py")
with hold(layout) as lease:
    supervise = (sys.executable, "-m", "k2.launch.supervise", "--orphan-grace", "1", "--lock-fd", str(lease.descriptor), "--")
    environment = {**os.environ, MARK: mark("trainer", layout)}
    command = Command((*supervise, sys.executable, launcher, folder, manner, "2"), environment)
    process = launch(command, layout.trainer_log(1), (lease.descriptor,))
    print(process.pid, flush=True)
    process.wait()
