"""What a model might write to get out, tried: each program is judged as failed, and leaves nothing behind."""

import time
from pathlib import Path

import pytest

from k2.eval import jail
from k2.eval.jail import PROCESS_NAME, Limits, NoJail, jail_missing, run_jailed

needs_jail = pytest.mark.skipif(jail_missing() is not None, reason=f"no jail works here: {jail_missing()}")

FINE = {
    "computes": "assert sum(range(10)) == 45",
    "prints": "print('hello')",
    "imports the standard library": "import math, re, collections, heapq, itertools; assert math.gcd(4, 6) == 2",
    "writes into its own folder": "open('note', 'w').write('x'); assert open('/tmp/note').read() == 'x'",
    "is asked its name": "assert __name__ == '__main__'",
}
WITHIN = {
    "an assertion that fails": "assert 1 == 2, 'no'",
    "a syntax error": "def f(:",
    "a lone surrogate": "x = '\udc80' + 1",
    "sys.exit(0)": "import sys; sys.exit(0)",
    "os._exit(0)": "import os; os._exit(0)",
    "exit by exception": "raise SystemExit",
    "exit in a destructor": "import os\nclass A:\n    def __del__(self): os._exit(0)\na = A()\ndel a",
    "an exit hook before a failure": "import atexit, os; atexit.register(lambda: os._exit(0)); assert False",
    "a fake passed on standard output": "import os\nfor fd in (1, 2):\n    os.write(fd, b'passed')\nprint('passed')\nassert False",
    "a fake passed on every descriptor": (
        "import os\nfor fd in range(3, 32):\n    try: os.write(fd, b'?' + b'passed' * 9)\n    except OSError: pass\nos._exit(0)"
    ),
    "a key that is guessed": (
        "import os\nfor fd in range(3, 32):\n    try: os.write(fd, b'?' + b'0' * 32)\n    except OSError: pass\nos._exit(0)"
    ),
    "killing its parent": "import os, signal\nos.kill(os.getppid() or 1, signal.SIGKILL)\nos.kill(1, signal.SIGKILL)\nassert False",
    "killing everybody": "import os, signal\nos.kill(-1, signal.SIGKILL)\nassert False",
    "the loopback": "import socket; socket.create_connection(('127.0.0.1', 22), 1)",
    "a name of the network": "import socket; socket.getaddrinfo('example.org', 80)",
    "any interface but the loopback": "import socket; assert len(socket.if_nameindex()) > 1",
    "the environment": "import os; assert [n for n in os.environ if n not in ('PWD', 'LC_CTYPE')]",
    "the passwords": "open('/etc/passwd').read()",
    "the home folder": "import os; assert os.listdir(os.path.expanduser('~'))",
    "writing to the system": "open('/usr/mark', 'w')",
    "writing to the root": "open('/mark', 'w')",
    "other processes": "import os; assert os.listdir('/proc')",
    "becoming root": "import os; os.setuid(0); assert os.getuid() == 0 and open('/usr/mark', 'w')",
    "much memory": "a = bytearray(3 << 30)",
    "a large file": "open('big', 'wb').write(b'a' * (8 << 20))",
    "many files": "a = [open('/dev/null') for _ in range(100)]",
    "more limits": "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (999, 999))",
    "foreign libraries": "import numpy",
}
QUICK = Limits(seconds=1.0)
BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""


def jailed_processes() -> list[str]:
    """Command lines of what lives in jails now."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        found += [str(words)] if PROCESS_NAME.encode() in words and b"bwrap" not in words else []
    return found


def wait_until_none_is_left() -> None:
    deadline = time.monotonic() + 30
    while jailed_processes():
        assert time.monotonic() < deadline, jailed_processes()
        time.sleep(0.01)


@needs_jail
@pytest.mark.parametrize("program", FINE.values(), ids=FINE.keys())
def test_a_program_that_ends_passes(program: str) -> None:
    verdict = run_jailed(program, Limits(seconds=20.0))
    assert verdict.passed, verdict.reason


@needs_jail
@pytest.mark.parametrize("program", WITHIN.values(), ids=WITHIN.keys())
def test_what_leads_out_fails(program: str) -> None:
    verdict = run_jailed(program, Limits(seconds=20.0))
    assert not verdict.passed
    assert "did not start" not in verdict.reason
    assert not Path("/usr/mark").exists()
    assert not Path("/mark").exists()


@needs_jail
@pytest.mark.parametrize(
    "program",
    ["while True: pass", "import time; time.sleep(99)", BOMB, "while True: print('x' * 10**6, flush=True)"],
    ids=["a loop", "a sleep", "a fork bomb", "a flood of output"],
)
def test_what_does_not_end_is_ended_with_all_its_processes(program: str) -> None:
    begun = time.monotonic()
    verdict = run_jailed(program, QUICK)
    assert (verdict.passed, verdict.reason) == (False, "did not end within 1 s")
    assert time.monotonic() - begun < 20
    wait_until_none_is_left()


@needs_jail
def test_a_daemon_ends_with_its_program() -> None:
    program = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\n"
    assert run_jailed(program, Limits(seconds=20.0)).passed
    wait_until_none_is_left()


@needs_jail
def test_the_number_of_processes_is_limited() -> None:
    program = """
import os, time
made = 0
try:
    while made < 200:
        if os.fork() == 0:
            time.sleep(60)
        made += 1
except BlockingIOError:
    pass
assert made < 200
"""
    assert run_jailed(program, Limits(seconds=30.0)).passed
    wait_until_none_is_left()


@needs_jail
def test_a_reason_is_short() -> None:
    verdict = run_jailed("raise ValueError('x' * 10**6)", Limits(seconds=20.0))
    assert verdict.reason.startswith("ValueError: xxx")
    assert len(verdict.reason) <= 300


def test_without_a_jail_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    jail.jail_missing.cache_clear()
    try:
        with pytest.raises(NoJail, match="install it"):
            run_jailed(f"open({str(tmp_path / 'mark')!r}, 'w')")
        assert not (tmp_path / "mark").exists()
    finally:
        monkeypatch.undo()
        jail.jail_missing.cache_clear()
