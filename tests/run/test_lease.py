"""One writer a run, and death frees it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from k2.run.layout import RunLayout
from k2.run.lease import RunHeld, hold, is_held

HOLDER = (
    "import sys; from pathlib import Path; from k2.run.layout import RunLayout; from k2.run.lease import hold\n"
    "with hold(RunLayout(Path(sys.argv[1]))):\n    print('held', flush=True); sys.stdin.read()\n"
)


def test_the_second_writer_is_told_who_holds_the_run(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "run")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(layout.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        assert is_held(layout)
        with pytest.raises(RunHeld, match=f"held by process {first.pid}"), hold(layout):
            pass
        first.kill()
        first.wait()
        assert not is_held(layout)
        with hold(layout):
            assert is_held(layout)
    assert not is_held(layout)


def test_whoever_lost_the_run_to_another_writes_nothing_more(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "run")
    with hold(layout) as cut_off:
        cut_off.confirm(layout)
    with hold(layout) as other:  # as where a shared disk has freed the lock of a host that it no longer hears
        with pytest.raises(RunHeld, match=f"was taken over by process {os.getpid()} "):
            cut_off.confirm(layout)
        other.confirm(layout)
